"""Test generation's attention on a GPU by tensors with a device and no data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rlvr_trainer.shared_prefix.decode_attention import DecodeAttention, HeaderAttention

CUDA = torch.device("cuda")
HEADS, KV_HEADS, HEAD_DIM = 14, 2, 64


def states(num_tokens: int) -> list[Tensor]:
    return [
        torch.empty(1, heads, num_tokens, HEAD_DIM, device=CUDA, dtype=torch.bfloat16)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def test_the_tensors_of_a_decode_step_are_on_the_device() -> None:
    with FakeTensorMode():
        header = HeaderAttention()
        out = header.attend(0, *states(30), 0.125)
        assert (out.shape, out.device.type) == ((1, HEADS, 30, HEAD_DIM), "cuda")
        decode = DecodeAttention(header, [3, 5], [0, 0, 1, 1], 8, CUDA)
        _, key, value = states(8)
        decode._keep_questions(0, key[0], value[0])
        for live, column in ((4, 5), (2, 6)):
            decode.column = column
            out = decode.attend(0, *states(live), 0.125)
            assert (out.shape, out.dtype) == ((1, HEADS, live, HEAD_DIM), torch.bfloat16)
            kept = (decode.source, decode.mask, decode.keys[0], out)
            assert {x.device.type for x in kept} == {"cuda"}
            decode.keep(torch.tensor([0, 2], device=CUDA))
