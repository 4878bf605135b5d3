"""Attention over a packed row on a CPU.

Each token attends to the header, its question and its own segment up to itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlvr_trainer.shared_prefix.cpu.kernels import (
    attend,
    attend_backward,
    attention_backward_dtype,
    attention_dtype,
    merge_,
)
from rlvr_trainer.shared_prefix.packed_layout import Layout, runs


@dataclass(frozen=True)
class PackedAttention:
    """The argument `shared_prefix` of a packed forward.

    It is immutable, so a recomputation uses the same layout.
    """

    layout: Layout

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend from query (1, H, N, D) to key and value (1, KV, N, D); return (1, H, N, D)."""
        out: Tensor = _TreeAttention.apply(query, key, value, self.layout, scale)
        return out


@dataclass(frozen=True)
class _Part:
    """Queries `[q, q + n·t)` attend to keys `[k, k + n·s)`, as n blocks.

    `folded`: all query heads of a K/V head at once.
    """

    q: int
    t: int
    k: int
    s: int
    n: int = 1
    causal: bool = False
    folded: bool = False


def _parts(layout: Layout) -> list[_Part]:
    """Return the parts in the order of merging; the first part of a query writes its output."""
    p, end = layout.header_length, layout.num_tokens
    own = [
        _Part(r.start, r.length, r.start, r.length, r.count, causal=True)
        for r in (*runs(layout.questions), *runs(layout.completions))
    ]
    question = [
        _Part(a.start, a.length, q.start, q.length)
        for q, a in zip(layout.questions, layout.answers, strict=True)
        if a.length
    ]
    header = [_Part(0, p, 0, p, causal=True), _Part(p, end - p, 0, p, folded=True)] if p else []
    return [*own, *header[:1], *question, *header[1:]]


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float
    ) -> Tensor:
        heads, n, d = query.shape[1:]
        dtype, sum_dtype = attention_dtype(query), attention_backward_dtype(query)
        q, k, v = (x[0].to(dtype) for x in (query, key, value))
        kx, vx = _per_query_head(k, heads), _per_query_head(v, heads)
        # (H, N, D) and (H, N), token-major.
        out = torch.empty(n, heads, d, dtype=sum_dtype, device=q.device).transpose(0, 1)
        lse = torch.empty(n, heads, dtype=torch.float32, device=q.device).transpose(0, 1)
        for part in _parts(layout):
            o, s = attend(
                _queries(q, part, k),
                _keys(kx, k, part),
                _keys(vx, v, part),
                scale,
                causal=part.causal,
            )
            o, s = _unblock(o, heads), _unblock(s[..., None], heads)[..., 0]
            out_part, lse_part = (x[:, part.q : part.q + part.n * part.t] for x in (out, lse))
            if part.k == part.q:
                out_part.copy_(o)
                lse_part.copy_(s)
            else:
                merge_(out_part, lse_part, o, s)
        result = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.layout, ctx.scale = layout, scale
        return result[None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, lse = ctx.saved_tensors
        heads, dtype = query.shape[1], attention_backward_dtype(query)
        q, k, v, g = (x[0].to(dtype) for x in (query, key, value, grad))
        out = result.to(dtype)
        kx, vx = _per_query_head(k, heads), _per_query_head(v, heads)
        dq, dk, dv = (torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (q, k, v))
        for part in _parts(ctx.layout):
            gq, gk, gv = attend_backward(
                _queries(g, part, k),
                _queries(q, part, k),
                _keys(kx, k, part),
                _keys(vx, v, part),
                _queries(out, part, k),
                _queries(lse[..., None], part, k)[..., 0],
                ctx.scale,
                causal=part.causal,
            )
            dq[:, part.q : part.q + part.n * part.t] += _unblock(gq, heads)
            for total, x in ((dk, gk), (dv, gv)):
                kv_heads = total.shape[0]
                x = _unblock(x, kv_heads if part.folded else heads)
                x = torch.unflatten(x, 0, (kv_heads, -1)).sum(1)
                total[:, part.k : part.k + part.n * part.s] += x
        return (
            dq.to(query.dtype)[None],
            dk.to(key.dtype)[None],
            dv.to(value.dtype)[None],
            None,
            None,
        )


def _per_query_head(x: Tensor, heads: int) -> Tensor:
    """Repeat (KV, N, D) to (H, N, D)."""
    return x if x.shape[0] == heads else x.repeat_interleave(heads // x.shape[0], 0)


def _queries(x: Tensor, part: _Part, k: Tensor) -> Tensor:
    """Reshape (H, N, D) to (n, H, t, D), or for a folded part to (KV, 1, R·t, D).

    Folded, one multiplication per K/V head reads its keys once.
    """
    x = x[:, part.q : part.q + part.n * part.t]
    if part.folded:
        return x.reshape(k.shape[0], 1, -1, x.shape[-1])
    return torch.unflatten(x, 1, (part.n, part.t)).transpose(0, 1)


def _keys(expanded: Tensor, x: Tensor, part: _Part) -> Tensor:
    """Reshape (H, N, D) to (n, H, s, D), or for a folded part (KV, N, D) to (KV, 1, s, D)."""
    if part.folded:
        return x[:, None, part.k : part.k + part.s]
    x = expanded[:, part.k : part.k + part.n * part.s]
    return torch.unflatten(x, 1, (part.n, part.s)).transpose(0, 1)


def _unblock(x: Tensor, heads: int) -> Tensor:
    """Invert `_queries`: reshape (n, H, t, D) or (KV, 1, R·t, D) to (H, n·t, D)."""
    if x.shape[1] == heads:
        return x.transpose(0, 1).flatten(1, 2)
    return x.reshape(heads, -1, x.shape[-1])
