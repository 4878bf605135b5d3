"""Attention of some queries to some of their keys, with the log-sum-exp to merge such parts.

The backward of a part takes the *merged* output and log-sum-exp: the probabilities exp(score - lse)
and the row term sum(grad · out) are then those of the whole attention, so the gradient of a part
does not depend on the others.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from rlvr_trainer.shared_prefix import cpu

_aten = torch.ops.aten
_flash_forward = _aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = _aten._scaled_dot_product_flash_attention_for_cpu_backward
_MIN_BLOCK_ROWS = 64


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a CPU multiplies matrices of `dtype`: float32 for bfloat16.

    It loses no precision and is two to eight times as fast; only with AMX is bfloat16 faster.
    """
    if dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported():
        return torch.float32
    return dtype


def result_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a linear layer's result for `x`, under autocast too."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def attention_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a part of the attention to `x` is computed.

    Without AMX a CPU's kernel is many times slower in half precision than in float32. A float32
    copy of queries, keys and values is small compared with the activations.
    """
    if cpu.is_used(x.device) and x.dtype == torch.bfloat16:
        return product_dtype(x.dtype)
    return attention_backward_dtype(x)


def attention_backward_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a part's backward, and of merging the parts of a packed row.

    Even with AMX a CPU's backward over few rows is slower in bfloat16 than in float32.
    """
    return torch.float32 if cpu.is_used(x.device) and x.dtype != torch.float64 else x.dtype


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend from q (B, H, T, D) to k, v (B, H, S, D) on a CPU.

    `mask` is additive and broadcasts to (B, H, T, S). Returns the output (B, H, T, D) and the
    log-sum-exp of its scores (B, H, T) in float32.
    """
    out, lse = _flash_forward(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
    return out, lse


def attend_few(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attend on any device, for few queries: on a GPU their scores are stored."""
    if cpu.is_used(q.device):
        return attend(q, k, v, scale, mask=mask)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores += mask
    lse = torch.logsumexp(scores, -1)
    return torch.exp(scores - lse[..., None]).to(v.dtype) @ v, lse


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    *,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v for one part on a CPU; `out` and `lse` are merged ones."""
    blocks = 1 if causal else _blocks(q)
    if blocks > 1:
        return _backward_in_blocks(blocks, grad, q, k, v, out, lse, scale)
    dq, dk, dv = _flash_backward(grad, q, k, v, out, lse, 0.0, causal, scale=scale)
    return dq, dk, dv


def _blocks(q: Tensor) -> int:
    """Return the blocks of rows that occupy all threads: the kernel uses one thread per head."""
    batch, heads, rows, _ = q.shape
    threads = torch.get_num_threads()
    blocks = threads // math.gcd(batch * heads, threads)
    return blocks if heads == 1 and rows >= _MIN_BLOCK_ROWS * blocks else 1


def _backward_in_blocks(
    blocks: int,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the backward of one head with its rows as `blocks` heads of the same keys."""
    rows = q.shape[2]
    extra = -rows % blocks  # rows of zeros, which add nothing to the gradients

    def split(x: Tensor) -> Tensor:
        padded = functional.pad(x[:, 0], (0, 0, 0, extra)) if extra else x[:, 0]
        return torch.unflatten(padded, 1, (blocks, -1))

    dq, dk, dv = _flash_backward(
        split(grad),
        split(q),
        k.expand(-1, blocks, -1, -1),
        v.expand(-1, blocks, -1, -1),
        split(out),
        split(lse[..., None])[..., 0],
        0.0,
        False,
        scale=scale,
    )
    return dq.flatten(1, 2)[:, None, :rows], dk.sum(1, keepdim=True), dv.sum(1, keepdim=True)


def merge_(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> None:
    """Fold the attention to other keys into `out` (…, T, D) and `lse` (…, T), in place."""
    share = torch.sigmoid(other_lse - lse).to(out.dtype)
    out.lerp_(other_out.to(out.dtype), share[..., None])
    torch.logaddexp(lse, other_lse, out=lse)
