"""Log-probability and entropy of tokens, without all logits or their gradient in memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rlvr_trainer.shared_prefix import cpu
from rlvr_trainer.shared_prefix.cpu.kernels import product_dtype, result_dtype

# Logits in memory at a time. With fewer, a CPU reads the head's weight too often; with more, its
# allocator returns them to the system each time.
_MULTIPLIED_ELEMENTS = {"cpu": 2**24}
_SOFTMAXED_ELEMENTS = {"cpu": 2**18}  # which stay in a CPU's cache
_GPU_ELEMENTS = 2**26


def head_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float = 1.0,
    *,
    entropy_gradient: bool = True,
) -> Tensor:
    """Return scores (T, 2), float32, of `targets` (T,) under softmax(logits / temperature).

    The logits are those of a head with `weight` (V, H) for the states `hidden` (T, H). Column 0 is
    log p(target), column 1 the entropy. Only `hidden` gets a gradient; without `entropy_gradient`
    that of column 1 is not computed, which saves a multiplication.

    From the backward pass a token's gradient needs only a factor, so it is computed with the
    scores, while the token's logits are in memory.
    """
    scores: Tensor = _HeadScores.apply(hidden, weight, bias, targets, temperature, entropy_gradient)
    return scores


def token_scores(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the scores of `head_scores` for a trained or adapted head, from its logits (T, V).

    The logits' memory is reused for their gradient: the caller must not read them afterwards, and
    the backward pass can run only once.
    """
    scores: Tensor = _TokenScores.apply(logits, targets, temperature)
    return scores


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy_gradient: bool,
    ) -> Tensor:
        dtype = result_dtype(hidden)
        if cpu.is_used(hidden.device):
            dtype = product_dtype(dtype)
        num_slopes = (2 if entropy_gradient else 1) if ctx.needs_input_grad[0] else 0
        states, head = hidden.to(dtype), weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        scores = hidden.new_empty(len(hidden), 2, dtype=torch.float32)
        slopes = hidden.new_empty(num_slopes, *hidden.shape, dtype=dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks((len(states), len(head)), hidden.device, _MULTIPLIED_ELEMENTS):
                logits = functional.linear(states[rows], head, offset)
                # The first overwrites the logits, part by part after they are read.
                of_logits = [logits, *(torch.empty_like(logits) for _ in range(num_slopes - 1))]
                for part in _chunks(logits.shape, hidden.device, _SOFTMAXED_ELEMENTS):
                    target = targets[rows][part, None]
                    log_p, p = _softmax(logits[part], temperature)
                    scores[rows][part] = _scores(log_p, p, target)
                    if num_slopes > 1:
                        of_logits[1][part] = log_p.add_(scores[rows][part, 1:]).mul_(p)
                    if num_slopes:
                        p.scatter_add_(-1, target, p.new_full(target.shape, -1.0))
                        of_logits[0][part] = p
                for slope, x in zip(slopes, of_logits, strict=False):
                    torch.mm(x, head, out=slope[rows])
        ctx.save_for_backward(slopes.div_(-temperature))
        ctx.dtype = hidden.dtype
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        of_hidden = (grad.t()[: len(slopes), :, None] * slopes).sum(0)
        return of_hidden.to(ctx.dtype), None, None, None, None, None


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
        scores = logits.new_empty(logits.shape[0], 2, dtype=torch.float32)
        for part in _chunks(logits.shape, logits.device, _SOFTMAXED_ELEMENTS):
            scores[part] = _scores(*_softmax(logits[part], temperature), targets[part, None])
        ctx.logits = logits.detach()  # not saved: overwritten by the backward
        ctx.temperature = temperature
        ctx.save_for_backward(targets, scores)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        targets, scores = ctx.saved_tensors
        logits, ctx.logits = ctx.logits, None
        if logits is None:
            raise RuntimeError(
                "the logits were overwritten by the first backward pass; run the forward again"
            )
        with_entropy = bool(grad[:, 1].any())
        for part in _chunks(logits.shape, logits.device, _SOFTMAXED_ELEMENTS):
            log_p, p = _softmax(logits[part], ctx.temperature)
            g_log_prob, g_entropy = grad[part, 0, None], grad[part, 1, None]
            if with_entropy:
                d = p * (-g_log_prob - g_entropy * (log_p + scores[part, 1, None]))
            else:
                d = p.mul_(-g_log_prob)
            d.scatter_add_(-1, targets[part, None], g_log_prob)
            logits[part] = d.div_(ctx.temperature)
        return logits, None, None


def _softmax(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log p and p (n, V), float32, of softmax(logits / temperature)."""
    scaled = logits.float().div(temperature)
    if not cpu.is_used(logits.device):
        log_p = torch.log_softmax(scaled, -1)
        return log_p, torch.exp(log_p)
    # A CPU's log_softmax adds up a row in so few parts that the sum's rounding, which all of p
    # has in common, is most of that of a gradient. Here the row is exponentiated only once, too.
    scaled.sub_(scaled.amax(-1, keepdim=True))
    p = torch.exp(scaled)
    total = p.sum(-1, keepdim=True)
    return scaled.sub_(total.log()), p.div_(total)


def _scores(log_p: Tensor, p: Tensor, target: Tensor) -> Tensor:
    """Return scores (n, 2) from (n, V), (n, V) and (n, 1)."""
    # Not lse - sum(p · x), a small difference of large numbers, nor a product of matrices, which
    # autocast would round.
    entropy = -(p * log_p).sum(-1, keepdim=True)
    return torch.cat((log_p.gather(-1, target), entropy), -1)


def _chunks(
    shape: tuple[int, ...], device: torch.device, elements: dict[str, int]
) -> Iterator[slice]:
    num_rows, row_length = shape
    size = max(1, elements.get(device.type, _GPU_ELEMENTS) // row_length)
    return (slice(i, i + size) for i in range(0, num_rows, size))
