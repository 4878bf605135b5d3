"""Attention of generation.

Keys and values of the header are stored once, each sequence's own in buffers of fixed size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvr_trainer.shared_prefix.kernels import attend, compute_dtype, merge_


class HeaderAttention:
    """The forward over the header (1, P): causal; keeps each layer's keys and values (KV, P, D)."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        dtype = compute_dtype(query)
        k, v = (x[0].to(dtype).contiguous() for x in (key, value))
        self.keys[layer], self.values[layer] = k, v
        repeats = query.shape[1] // k.shape[0]
        k, v = (x[:, None].expand(-1, repeats, -1, -1) for x in (k, v))
        out, _ = attend(
            torch.unflatten(query[0].to(dtype), 0, (-1, repeats)), k, v, scale, causal=True
        )
        return out.flatten(0, 1)[None].to(query.dtype)

    def fold_into(self, layer: int, q: Tensor, out: Tensor, lse: Tensor, scale: float) -> None:
        """Merge the attention of q (H, M, D) to the header into `out` and `lse`, in place.

        `out` is (H, M, D), `lse` (H, M).
        """
        if layer not in self.keys:
            return
        k, v = self.keys[layer][:, None], self.values[layer][:, None]
        o, s = attend(q.reshape(k.shape[0], 1, -1, q.shape[-1]), k, v, scale)
        merge_(out, lse, o.reshape(out.shape), s.reshape(lse.shape))


class DecodeAttention:
    """The forwards over questions and then over one token of each of n sequences.

    A sequence's keys lie in columns `[width - length, width + generated)` of its buffer: questions
    are right-aligned, so that all sequences write the same column.
    """

    def __init__(
        self, header: HeaderAttention, lengths: Sequence[int], copies: Sequence[int], max_new: int
    ) -> None:
        """`lengths` (Q,) of distinct questions, `copies` (n,) the one each sequence continues."""
        self.header, self.lengths, self.copies = header, list(lengths), list(copies)
        self.width = max(lengths)
        self.capacity = self.width + max_new
        # None: the forward over questions, which lie one after the other in one row.
        self.column: int | None = None
        self.keys: dict[int, Tensor] = {}  # (n, KV, capacity, D)
        self.values: dict[int, Tensor] = {}
        first = torch.tensor([self.width - self.lengths[i] for i in self.copies])
        hidden = torch.arange(self.capacity)[None] < first[:, None]
        mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
        self.mask = mask[:, None, None]  # (n, 1, 1, capacity)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        dtype = compute_dtype(query)
        q, k, v = (x[0].to(dtype) for x in (query, key, value))
        out, lse = (
            self._questions(layer, q, k, v, scale)
            if self.column is None
            else self._step(layer, q, k, v, scale)
        )
        self.header.fold_into(layer, q, out, lse, scale)
        return out[None].to(query.dtype)

    def keep(self, live: Tensor) -> None:
        """Drop the sequences that are not in `live` (indices)."""
        for store in (self.keys, self.values):
            for layer, x in store.items():
                store[layer] = x[live]
        self.mask = self.mask[live.to(self.mask.device)]

    def _questions(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        kv_heads, _, d = k.shape
        repeats = q.shape[0] // kv_heads
        outs, lses, start = [], [], 0
        buffers = [k.new_zeros(len(self.copies), kv_heads, self.capacity, d) for _ in range(2)]
        copies = torch.tensor(self.copies)
        for i, length in enumerate(self.lengths):
            part = slice(start, start + length)
            kx, vx = (x[:, None, part].expand(-1, repeats, -1, -1) for x in (k, v))
            grouped = torch.unflatten(q[:, part], 0, (kv_heads, repeats))
            o, s = attend(grouped, kx, vx, scale, causal=True)
            outs.append(o.flatten(0, 1))
            lses.append(s.flatten(0, 1))
            rows = (copies == i).nonzero()[:, 0]
            for buffer, x in zip(buffers, (k, v), strict=True):
                buffer[rows, :, self.width - length : self.width] = x[:, part]
            start += length
        self.keys[layer], self.values[layer] = buffers
        self.mask = self.mask.to(k)
        return torch.cat(outs, 1), torch.cat(lses, 1)

    def _step(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        assert self.column is not None
        keys, values, stop = self.keys[layer], self.values[layer], self.column + 1
        keys[:, :, self.column] = k.transpose(0, 1)
        values[:, :, self.column] = v.transpose(0, 1)
        heads, n, d = q.shape
        # (n, KV, R, D): R queries share a key.
        grouped = torch.unflatten(q, 0, (keys.shape[1], -1)).permute(2, 0, 1, 3)
        out, lse = attend(
            grouped, keys[:, :, :stop], values[:, :, :stop], scale, mask=self.mask[..., :stop]
        )
        return out.permute(1, 2, 0, 3).reshape(heads, n, d), lse.permute(1, 2, 0).reshape(heads, n)
