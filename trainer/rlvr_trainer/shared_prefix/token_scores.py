"""Log-probability and entropy of tokens from logits, without a float32 copy of the logits."""

from typing import Any

import torch
from torch import Tensor

# A chunk of float32 logits of this many elements stays in a CPU's cache, and fills a GPU.
_CHUNK_ELEMENTS = {"cpu": 2**19}
_GPU_CHUNK_ELEMENTS = 2**26


def token_scores(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Scores (T, 2), float32, of `targets` (T,) under softmax(logits (T, V) / temperature).

    Column 0 is log p(target), column 1 the entropy; both have gradients. The logits' memory is
    reused for their gradient, so the caller must not read them afterwards, and the backward pass
    can run once.
    """
    scores: Tensor = _TokenScores.apply(logits, targets, temperature)
    return scores


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
        scores = logits.new_empty(logits.shape[0], 2, dtype=torch.float32)
        normaliser = logits.new_empty(logits.shape[0], dtype=torch.float32)
        for part in _chunks(logits):
            x = logits[part].float()
            if temperature != 1.0:
                x = x / temperature
            lse = torch.logsumexp(x, -1)
            log_p = x - lse[:, None]
            scores[part, 0] = log_p.gather(-1, targets[part, None])[:, 0]
            # Not lse - sum(p · x), which is a small difference of large numbers.
            scores[part, 1] = -(torch.exp(log_p).mul_(log_p)).sum(-1)
            normaliser[part] = lse
        ctx.logits = logits.detach()  # not saved: overwritten by the backward
        ctx.temperature = temperature
        ctx.save_for_backward(targets, normaliser, scores)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        targets, normaliser, scores = ctx.saved_tensors
        logits, ctx.logits = ctx.logits, None
        if logits is None:
            raise RuntimeError(
                "the logits were overwritten by the first backward pass; run the forward again"
            )
        with_entropy = bool(grad[:, 1].any())
        for part in _chunks(logits):
            x = logits[part].float()
            if ctx.temperature != 1.0:
                x = x / ctx.temperature
            log_p = x.sub_(normaliser[part, None])
            p = torch.exp(log_p)
            g_log_prob, g_entropy = grad[part, 0, None], grad[part, 1, None]
            if with_entropy:
                d = p * (-g_log_prob - g_entropy * (log_p + scores[part, 1, None]))
            else:
                d = p.mul_(-g_log_prob)
            d.scatter_add_(-1, targets[part, None], g_log_prob)
            logits[part] = d.div_(ctx.temperature) if ctx.temperature != 1.0 else d
        return logits, None, None


def _chunks(logits: Tensor) -> list[slice]:
    elements = _CHUNK_ELEMENTS.get(logits.device.type, _GPU_CHUNK_ELEMENTS)
    size = max(1, elements // logits.shape[1])
    return [slice(i, i + size) for i in range(0, logits.shape[0], size)]
