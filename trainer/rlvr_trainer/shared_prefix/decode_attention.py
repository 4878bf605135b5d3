"""Attention for generation.

The header's keys and values are stored once, those of each sequence in buffers that grow.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rlvr_trainer.shared_prefix import cpu
from rlvr_trainer.shared_prefix.cpu.kernels import (
    attend,
    attend_few,
    attention_dtype,
    merge_,
)
from rlvr_trainer.shared_prefix.gpu.flex_attention import FlexAttention, block_mask
from rlvr_trainer.shared_prefix.packed_layout import Layout, Segment

_GROWTH = 256  # columns added to a full buffer; few completions reach the maximal length
# A sequence that has ended costs a row of every matrix until it is dropped, which copies the keys.
_DROP_AT_SHARE = 1 / 8


class HeaderAttention:
    """Causal attention over the header (1, P); keeps the keys and values (KV, P, D) of layers."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        dtype = attention_dtype(query)
        q, k, v = query.to(dtype), key.to(dtype).contiguous(), value.to(dtype).contiguous()
        self.keys[layer], self.values[layer] = k[0], v[0]
        if cpu.is_used(q.device):
            out, _ = _attend_causally(q[0], k[0], v[0], scale)
            return out[None].to(query.dtype)
        return functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=True
        ).to(query.dtype)

    def fold_into(self, layer: int, q: Tensor, out: Tensor, lse: Tensor, scale: float) -> None:
        """Merge the attention of q (H, M, D) to the header into `out` and `lse`, in place.

        `out` is (H, M, D), `lse` (H, M).
        """
        if layer not in self.keys:
            return
        k, v = self.keys[layer][:, None], self.values[layer][:, None]
        o, s = attend_few(q.reshape(k.shape[0], 1, -1, q.shape[-1]), k, v, scale)
        merge_(out, lse, o.reshape(out.shape), s.reshape(lse.shape))


class DecodeAttention:
    """Attention over the questions, and then over one token of each of n sequences.

    A sequence's keys are in columns `[width - length, width + generated)` of its buffer: questions
    are right-aligned, so that all sequences write the same column.
    """

    def __init__(
        self,
        header: HeaderAttention,
        lengths: Sequence[int],
        copies: Sequence[int],
        max_new: int,
        device: torch.device,
    ) -> None:
        """Set `lengths` (Q,) of distinct questions, `copies` (n,) the question of a sequence."""
        self.header, self.lengths = header, list(lengths)
        self.width = max(lengths)
        self.capacity = self.width + max_new
        # None during the forward over the questions, which are concatenated in one row.
        self.column: int | None = None
        self.keys: dict[int, Tensor] = {}  # (n, KV, at most capacity, D)
        self.values: dict[int, Tensor] = {}
        counts, asked = torch.tensor(self.lengths), torch.tensor(list(copies))
        column = torch.arange(self.capacity)[None]
        first = (self.width - counts[asked])[:, None]
        # (n, width): the index in the row of questions of each column's token.
        start = (counts.cumsum(0) - counts)[asked][:, None]
        self.source = (start + column - first)[:, : self.width].clamp(min=0).to(device)
        hidden = torch.zeros(first.shape[0], self.capacity)
        hidden.masked_fill_(column < first, float("-inf"))
        self.mask = hidden[:, None, None].to(device)  # (n, 1, 1, capacity)
        self._questions_and_header: FlexAttention | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        dtype = attention_dtype(query)
        q, k, v = (x[0].to(dtype) for x in (query, key, value))
        if self.column is None:
            self._keep_questions(layer, k, v)
            over_questions = (
                self._question_by_question if cpu.is_used(q.device) else self._all_questions
            )
            out = over_questions(layer, q, k, v, scale)
        else:
            out = self._step(layer, q, k, v, scale)
        return out[None].to(query.dtype)

    def start_step(self, column: int) -> None:
        """Make the next forward, over one token of each sequence, write `column`."""
        self.column = column

    def rows_to_keep(self, running: list[bool]) -> list[int]:
        """Return the sequences to compute in the next step: all, unless enough have ended."""
        if len(running) - sum(running) < max(1, _DROP_AT_SHARE * len(running)):
            return list(range(len(running)))
        return [row for row, is_running in enumerate(running) if is_running]

    def keep(self, live: Tensor) -> None:
        """Drop the sequences that are not in `live` (indices)."""
        for store in (self.keys, self.values):
            for layer, x in store.items():
                store[layer] = x[live]
        self.mask = self.mask[live]

    def _keep_questions(self, layer: int, k: Tensor, v: Tensor) -> None:
        for store, x in ((self.keys, k), (self.values, v)):
            kv_heads, _, d = x.shape
            columns = min(self.capacity, self.width + _GROWTH)
            buffer = x.new_zeros(len(self.source), kv_heads, columns, d)
            buffer[:, :, : self.width] = x[:, self.source].transpose(0, 1)
            store[layer] = buffer
        self.mask = self.mask.to(k.dtype)

    def _question_by_question(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> Tensor:
        questions = zip(*(x.split(self.lengths, 1) for x in (q, k, v)), strict=True)
        parts = [_attend_causally(qx, kx, vx, scale) for qx, kx, vx in questions]
        out, lse = (torch.cat(x, 1) for x in zip(*parts, strict=True))
        self.header.fold_into(layer, q, out, lse, scale)
        return out

    def _all_questions(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        if layer in self.header.keys:
            k = torch.cat((self.header.keys[layer], k), 1)
            v = torch.cat((self.header.values[layer], v), 1)
        if self._questions_and_header is None:
            self._questions_and_header = self._flex_attention(k.shape[1] - q.shape[1], q.device)
        return self._questions_and_header.attend(layer, q[None], k[None], v[None], scale)[0]

    def _flex_attention(self, header_length: int, device: torch.device) -> FlexAttention:
        questions, start = [], header_length
        for length in self.lengths:
            questions.append(Segment(start, length))
            start += length
        layout = Layout(header_length, tuple(questions), (), ())
        return FlexAttention(block_mask(layout, device, first_query=header_length))

    def _step(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        keys, values, mask = self._own(layer, k, v)
        heads, n, d = q.shape
        # (n, KV, R, D): R queries share a key.
        grouped = torch.unflatten(q, 0, (keys.shape[1], -1)).permute(2, 0, 1, 3)
        own, lse = attend_few(grouped, keys, values, scale, mask)
        out = own.permute(1, 2, 0, 3).reshape(heads, n, d)
        lse = lse.permute(1, 2, 0).reshape(heads, n)
        self.header.fold_into(layer, q, out, lse, scale)
        return out

    def _own(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Store the step's k and v (KV, n, D); return the keys, values and mask to attend with."""
        assert self.column is not None
        keys, values = (self._room_in(store, layer) for store in (self.keys, self.values))
        keys[:, :, self.column] = k.transpose(0, 1)
        values[:, :, self.column] = v.transpose(0, 1)
        stop = self.column + 1
        return keys[:, :, :stop], values[:, :, :stop], self.mask[..., :stop]

    def _room_in(self, store: dict[int, Tensor], layer: int) -> Tensor:
        """Return the layer's buffer, with room for the current column."""
        buffer = store[layer]
        if self.column == buffer.shape[2]:
            columns = min(_GROWTH, self.capacity - buffer.shape[2])
            buffer = store[layer] = functional.pad(buffer, (0, 0, 0, columns))
        return buffer


def _attend_causally(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend from q (H, T, D) to k, v (KV, T, D); return (H, T, D) and log-sum-exp (H, T)."""
    kv_heads = k.shape[0]
    grouped = torch.unflatten(q, 0, (kv_heads, -1))
    k, v = (x[:, None].expand(-1, grouped.shape[1], -1, -1) for x in (k, v))
    out, lse = attend(grouped, k, v, scale, causal=True)
    return out.flatten(0, 1), lse.flatten(0, 1)
