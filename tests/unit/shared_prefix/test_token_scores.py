from __future__ import annotations

import pytest
import torch

from rlvr_trainer.shared_prefix import token_scores as module
from rlvr_trainer.shared_prefix.token_scores import token_scores


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("spread", [1.0, 12.0], ids=["flat", "peaked"])
def test_scores_and_gradients_are_those_of_float64(
    temperature: float, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._CHUNK_ELEMENTS, "cpu", 1500)  # several chunks, the last one smaller
    torch.manual_seed(0)
    logits = torch.randn(7, 500) * spread + 20
    targets = torch.randint(500, (7,))
    toward = torch.randn(7, 2)

    exact = logits.double().requires_grad_()
    log_p = (exact / temperature).log_softmax(-1)
    expected = torch.stack(
        (log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)), 1
    )
    (expected * toward).sum().backward()

    leaf = logits.clone().requires_grad_()
    scores = token_scores(leaf * 1, targets, temperature)
    (scores * toward).sum().backward()
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-6)
    assert exact.grad is not None
    assert leaf.grad is not None
    assert (leaf.grad - exact.grad).norm() < 1e-5 * exact.grad.norm()


def test_a_second_backward_is_an_error() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    scores = token_scores(logits * 1, torch.tensor([1, 2])).sum()
    scores.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward again"):
        scores.backward()
