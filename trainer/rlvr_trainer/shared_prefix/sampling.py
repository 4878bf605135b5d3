"""Choose next tokens from logits in float32, with transformers' filters in their order."""

from dataclasses import dataclass

import torch
from torch import Tensor

NOT_FINITE = -1
"""Returned as token id if a row's logits have a NaN or an infinite maximum."""


class LogitsNotFinite(RuntimeError):
    """The model gives logits that are NaN or infinite, from which no token can be drawn."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite (NaN or infinite)")


@dataclass(frozen=True)
class Sampler:
    """Draw one token for each row of logits; `temperature` 0 takes the likeliest."""

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    generator: torch.Generator | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Return (n,) token ids or NOT_FINITE for logits (n, V), without waiting for the device."""
        if self.temperature == 0.0:
            tokens = logits.argmax(-1)  # a NaN or an infinite one, if there is any
            return _checked(tokens, logits.gather(-1, tokens[:, None])[:, 0])
        x = logits.float() / self.temperature
        if self.top_k:
            kth = torch.topk(x, min(self.top_k, x.shape[-1])).values[:, -1:]
            x = x.masked_fill(x < kth, float("-inf"))
        if self.top_p < 1.0:
            ascending, order = x.sort(-1)
            drop = ascending.softmax(-1).cumsum(-1) <= 1.0 - self.top_p
            drop[:, -1].fill_(False)  # an assignment copies it from the CPU in torch 2.11
            x = x.masked_fill(drop.scatter(-1, order, drop), float("-inf"))
        if self.min_p:
            p = x.softmax(-1)
            x = x.masked_fill(p < self.min_p * p.amax(-1, keepdim=True), float("-inf"))
        return self._draw(x.softmax(-1))

    def _draw(self, probs: Tensor) -> Tensor:
        """Invert the distribution with one random number per row (multinomial: one per token)."""
        cumulative = probs.cumsum(-1)
        total = cumulative[:, -1:]
        u = torch.rand(
            total.shape, dtype=torch.float32, device=probs.device, generator=self.generator
        )
        # Rounding must not reach the total: past the last token with any probability.
        point = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
        return _checked(torch.searchsorted(cumulative, point, right=True)[:, 0], total[:, 0])


def _checked(tokens: Tensor, values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), tokens, NOT_FINITE)
