"""Decode steps as CUDA graphs: one launch per step instead of hundreds of small kernels.

A graph replays fixed shapes at fixed addresses. Sequences are therefore dropped by halves, keys are
in buffers that are attended to completely, and the step's column is a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlvr_trainer.shared_prefix.decode_attention import DecodeAttention
from rlvr_trainer.shared_prefix.registration import SharedAttention

# (ids (N,), positions (N,), attention, indices to keep (K,)) → logits (K, V).
Forward = Callable[[Tensor, Tensor, SharedAttention, Tensor], Tensor]


class FixedShapeAttention(DecodeAttention):
    """DecodeAttention over whole buffers, with a mask of the columns written so far."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._place = torch.zeros(1, dtype=torch.long, device=self.mask.device)  # self.column
        self._seen = self.mask[:0]  # (n, 1, 1, columns of the buffers), from the first step on

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of sequences and columns of a step."""
        return self._seen.shape[0], self._seen.shape[-1]

    def start_step(self, column: int) -> None:
        """Make room for `column`, and unmask it."""
        super().start_step(column)
        for store in (self.keys, self.values):
            for layer in store:
                self._room_in(store, layer)
        columns = next(iter(self.keys.values())).shape[2]
        if self.shape != (len(self.mask), columns):
            later = torch.arange(columns, device=self.mask.device) > column
            self._seen = self.mask[..., :columns].masked_fill(later, float("-inf"))
        self._place.fill_(column)
        # Questions end before the column, so every sequence attends to it.
        self._seen.index_fill_(-1, self._place, 0.0)

    def rows_to_keep(self, running: list[bool]) -> list[int]:
        """Return all sequences, or the smallest 1/2, 1/4, … of them that has all running ones."""
        count = len(running)
        while 2 * sum(running) <= count:
            count //= 2
        running_first = sorted(range(len(running)), key=lambda row: not running[row])
        return sorted(running_first[:count])

    def _own(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self._place, k.transpose(0, 1)[:, :, None])
        values.index_copy_(2, self._place, v.transpose(0, 1)[:, :, None])
        return keys, values, self._seen


class GraphedForward:
    """A forward over one token of each sequence, captured once for each shape of the attention.

    On a CPU it runs as it is.
    """

    def __init__(self, forward: Forward, attention: FixedShapeAttention) -> None:
        self.forward, self.attention = forward, attention
        self._shape: tuple[int, int] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Tensor, places: Tensor, _: SharedAttention, keep: Tensor) -> Tensor:
        """Return logits (n, V), which the next step overwrites."""
        if not tokens.is_cuda:
            return self.forward(tokens, places, self.attention, keep)
        if self.attention.shape != self._shape:
            return self._first_step(tokens, places, keep)
        self._tokens.copy_(tokens)
        self._places.copy_(places)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits = self._run()
        self._graph.replay()
        return self._logits

    def _first_step(self, tokens: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        """Run the first step of a shape on a side stream, as a warm-up before the capture."""
        self._shape, self._graph = self.attention.shape, None
        self._tokens, self._places, self._keep = tokens.clone(), places.clone(), keep
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            logits = self._run()
        current.wait_stream(stream)
        logits.record_stream(current)
        return logits

    def _run(self) -> Tensor:
        return self.forward(self._tokens, self._places, self.attention, self._keep)
