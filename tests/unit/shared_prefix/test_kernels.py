"""Test the gradient of a part of the attention, with its rows divided among threads."""

from __future__ import annotations

import pytest
import torch

from rlvr_trainer.shared_prefix.cpu.kernels import attend, attend_backward

SCALE = 0.3


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("rows", [63, 257, 512])
def test_the_gradient_is_that_of_plain_attention_however_rows_are_divided(
    num_threads: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    torch.manual_seed(0)
    q = torch.randn(3, 1, rows, 16, requires_grad=True)
    k, v = (torch.randn(3, 1, 40, 16, requires_grad=True) for _ in range(2))
    grad = torch.randn_like(q)
    (torch.softmax(q @ k.transpose(-1, -2) * SCALE, -1) @ v).backward(grad)

    with torch.no_grad():
        out, lse = attend(q, k, v, SCALE)
        gradients = attend_backward(grad, q, k, v, out, lse, SCALE)

    for gradient, tensor in zip(gradients, (q, k, v), strict=True):
        torch.testing.assert_close(gradient, tensor.grad, rtol=1e-5, atol=1e-5)
