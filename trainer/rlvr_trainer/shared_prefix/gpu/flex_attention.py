"""Attention over a packed row on a GPU: FlexAttention, with the layout as its block mask.

Its kernel skips masked blocks of scores and does not store the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from rlvr_trainer.shared_prefix.packed_layout import Layout


@dataclass(frozen=True)
class FlexAttention:
    """The argument `shared_prefix` of a packed forward.

    It is immutable, so a recomputation uses the same mask.
    """

    mask: BlockMask

    @classmethod
    def over(cls, layout: Layout, device: torch.device) -> "FlexAttention":
        """Return the attention of every token of a packed row."""
        return cls(block_mask(layout, device))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend from query (1, H, M, D) to key and value (1, KV, N, D); return (1, H, M, D)."""
        # Under autocast the rotary embedding leaves queries and keys in float32.
        q, k = query.to(value.dtype), key.to(value.dtype)
        kernel: Any = _compiled() if q.is_cuda else flex_attention
        with torch.autocast(q.device.type, enabled=False):  # which would compile again
            out: Tensor = kernel(
                q,
                k,
                value,
                block_mask=self.mask,
                scale=scale,
                enable_gqa=True,
                kernel_options=_ONE_KERNEL if q.is_cuda else None,
            )
        return out.to(query.dtype)


# By default fewer than 128 queries get another kernel, which is another compilation.
_ONE_KERNEL = {"BACKEND": "TRITON"}


@cache
def _compiled() -> Callable[..., Any]:
    """Return the kernel compiled for all lengths, which differ in every batch."""
    return torch.compile(flex_attention, dynamic=True)


def block_mask(layout: Layout, device: torch.device, first_query: int = 0) -> BlockMask:
    """Return the mask of a packed row: queries are its tokens from `first_query`, keys all."""
    owner, question = (torch.tensor(x, device=device) for x in _owners(layout))
    place = torch.arange(layout.num_tokens, device=device)
    # Tensors, because a number in the mask would be compiled in.
    own, asked, here = (x[first_query:] for x in (owner, question, place))

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        theirs = owner[key]
        is_shared = (theirs == _HEADER) | (theirs == asked[query])
        return (key <= here[query]) & (is_shared | (theirs == own[query]))

    n = layout.num_tokens
    return create_block_mask(visible, None, None, n - first_query, n, device=device)


_HEADER = 0


def _owners(layout: Layout) -> tuple[list[int], list[int]]:
    """Return the segment number of each token and of its question; the header is 0."""
    owner, question = [_HEADER] * layout.header_length, [_HEADER] * layout.header_length
    for number, segment in enumerate(layout.questions, _HEADER + 1):
        owner += [number] * segment.length
        question += [number] * segment.length
    completions = iter(enumerate(layout.completions, _HEADER + 1 + len(layout.questions)))
    for number, answers in enumerate(layout.answers, _HEADER + 1):
        question += [number] * answers.length
        while len(owner) < answers.stop:
            completion, segment = next(completions)
            owner += [completion] * segment.length
    return owner, question
