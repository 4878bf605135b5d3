"""TRL's GRPO trainer with shared prefixes computed once.

One override serves the policy, old-policy and reference passes; losses, rewards, sampling and
metrics are TRL's.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rlvr_trainer.shared_prefix.cpu.merged_linear import merged_linears
from rlvr_trainer.shared_prefix.log_probs import token_log_probs
from rlvr_trainer.shared_prefix.registration import base_model, dropout_reason, unsupported_reason

logger = logging.getLogger(__name__)

# Correct computations differ only by rounding; a wrong one differs by orders of magnitude more.
_TOLERANCE_OVER_ROUNDING = 8.0
_EXTRA_PADDING = (1, 7)
# Mean difference of log-probabilities above which the check would accept almost anything.
_MUCH_ROUNDING = 0.1

# Log-probabilities, and optionally entropies and an auxiliary loss.
_Scores = tuple[Tensor, Tensor | None, Tensor | None]


class SharedPrefixMismatch(RuntimeError):
    """The packed forward and the plain one give different log-probabilities."""


@dataclass(frozen=True)
class _PolicyPass:
    """Additional inputs of a policy pass."""

    rows: Tensor  # (B,) bool, the rows to compute
    old_log_probs: Tensor | None  # (B, C)
    mask: Tensor  # (B, C), the tokens that losses and metrics count


class SharedPrefixGRPOTrainer(GRPOTrainer):
    """`GRPOTrainer` (TRL 1.16) that computes the shared prefixes of a micro-batch once.

    Sequences whose advantage is exactly zero are left out of the policy pass if they cannot have a
    gradient; normalisers still count them, and the logged entropy is that of the others. A model or
    batch that cannot be packed takes TRL's own path, and the reason is logged once.

    Args:
        *args, **kwargs: as for `GRPOTrainer`.
        shared_prefix: False for plain TRL.
    """

    args: GRPOConfig

    def __init__(self, *args: Any, shared_prefix: bool = True, **kwargs: Any) -> None:
        self.shared_prefix = shared_prefix
        self._verified = False
        self._policy_pass: _PolicyPass | None = None  # the current one
        self._until_backward: ExitStack | None = None  # contexts that end with the training step
        self._logged_reasons = set[str]()
        super().__init__(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run a forward and a backward pass, which may recompute layers of the packed forward."""
        with ExitStack() as self._until_backward:
            loss: Tensor = super().training_step(*args, **kwargs)
        self._until_backward = None
        return loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss_of: Callable[[Any, dict[str, Any]], Tensor] = super()._compute_loss
        if not (self.shared_prefix and torch.is_grad_enabled()):
            return loss_of(model, inputs)
        advantages, mask = inputs["advantages"], inputs["completion_mask"]
        rows = (advantages != 0).reshape(len(advantages), -1).any(1)
        if not self._skips_zero_advantages:
            rows = torch.ones_like(rows)
        elif not rows.any():
            rows[mask.sum(1).argmax()] = True  # at least one must run, for the logged entropy
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        self._policy_pass = _PolicyPass(rows, inputs.get("old_per_token_logps"), mask)
        try:
            return loss_of(model, inputs)
        finally:
            self._policy_pass = None

    @property
    def _skips_zero_advantages(self) -> bool:
        """Return True if a sequence without advantage has no gradient."""
        return (
            self.beta == 0.0
            and not self._entropy_bonus_enabled
            and not self.aux_loss_enabled
            and self.top_entropy_quantile >= 1.0  # the quantile is over all sequences' entropies
            and self.loss_type != "vespo"  # which logs a mean over all sequences' ratios
        )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> _Scores:
        plain: Callable[[], _Scores] = partial(
            super()._get_per_token_logps_and_entropies,
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size,
            compute_entropy,
            compute_aux_loss,
            **multimodal,
        )
        if not self.shared_prefix:
            return plain()
        reason = self._plain_reason(
            model, attention_mask, logits_to_keep, compute_aux_loss, multimodal
        )
        if not self._verified:
            if self._on_every_rank(reason is None):
                self._verified = self._verify(model, input_ids, attention_mask, logits_to_keep)
            else:
                reason = (
                    reason
                    or "another rank cannot use them, and all ranks must check them together."
                )
        if reason is not None:
            if reason not in self._logged_reasons:
                self._logged_reasons.add(reason)
                logger.warning("Shared prefixes are not used: %s", reason)
            return plain()
        if policy := self._policy_pass:
            log_probs, entropies = self._packed(
                model, input_ids, attention_mask, logits_to_keep, policy.rows, compute_entropy
            )
            return *_fill_left_out(log_probs, entropies, policy), None
        size = batch_size or len(input_ids)
        batches = zip(torch.split(input_ids, size), torch.split(attention_mask, size), strict=True)
        parts = [
            self._packed(model, ids, mask, logits_to_keep, None, compute_entropy)
            for ids, mask in batches
        ]
        entropies = torch.cat([e for _, e in parts if e is not None]) if compute_entropy else None
        return torch.cat([log_probs for log_probs, _ in parts]), entropies, None

    def _on_every_rank(self, condition: bool) -> bool:
        """Return True if `condition` holds on all ranks, so that all of them take the same path."""
        here = torch.tensor([condition], device=self.accelerator.device)
        return bool(self.accelerator.gather(here).all())

    def _packed(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        num_tokens: int,
        rows: Tensor | None,
        entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        with ExitStack() as here, self.accelerator.autocast():
            (self._until_backward or here).enter_context(merged_linears(base_model(model)))
            return token_log_probs(
                model,
                ids,
                mask,
                num_tokens,
                rows=rows,
                compute_entropy=entropy,
                entropy_gradient=self._entropy_bonus_enabled,
                temperature=self.temperature,
            )

    def _plain_reason(
        self,
        model: Any,
        attention_mask: Tensor,
        num_tokens: int,
        aux_loss: bool,
        multimodal: dict[str, Any],
    ) -> str | None:
        """Return the reason why this pass takes TRL's own path, or None."""
        if any(value is not None for value in multimodal.values()):
            return "the batch has images or other multimodal inputs."
        if aux_loss:
            return (
                "the auxiliary loss of a mixture of experts counts every token of every sequence."
            )
        if self.args.cast_lm_head_to_fp32:
            return "cast_lm_head_to_fp32 is set."
        if self.args.torch_compile:
            return "torch_compile is set, and every packed row would be compiled again."
        if self.args.neftune_noise_alpha:
            return "neftune_noise_alpha is set, and sequences would share their noise."
        if not _is_padded_outwards(attention_mask, num_tokens):
            return "a sequence is not a left-padded prompt with a right-padded completion."
        return unsupported_reason(model) or dropout_reason(model)

    @torch.no_grad()
    def _verify(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, num_tokens: int
    ) -> bool:
        """Compare with TRL's own forward on two sequences, before a packed result is used.

        Returns False if there was no token to compare. The tolerance follows from the difference
        that added padding makes to TRL's forward, which is only rounding. All ranks take part and
        raise together. Raises SharedPrefixMismatch.
        """
        two = _two_to_compare(input_ids, attention_mask, num_tokens)
        ids, mask = input_ids[two], attention_mask[two]
        seen = mask[:, -num_tokens:]
        forward: Callable[..., _Scores] = super()._get_per_token_logps_and_entropies

        def mean_difference(a: Tensor, b: Tensor) -> Tensor:
            return ((a - b).abs() * seen).sum() / seen.sum().clamp(min=1)

        def plain(extra: int) -> Tensor:
            padded_ids, padded_mask = (torch.nn.functional.pad(x, (extra, 0)) for x in (ids, mask))
            return forward(model, padded_ids, padded_mask, num_tokens)[0]

        expected = plain(0)
        rounding = max(mean_difference(plain(extra), expected) for extra in _EXTRA_PADDING)
        packed, _ = self._packed(model, ids, mask, num_tokens, None, False)
        if rounding > _MUCH_ROUNDING:
            logger.warning(
                "Padding alone changes the plain forward by %.2g, so that the check of shared "
                "prefixes is weak",
                rounding,
            )
        epsilon = torch.finfo(next(base_model(model).parameters()).dtype).eps
        tolerance = _TOLERANCE_OVER_ROUNDING * (rounding + epsilon)
        difference, tolerance, compared = self.accelerator.gather(
            torch.stack([mean_difference(packed, expected), tolerance, seen.sum()])[None]
        ).unbind(1)
        if not bool((difference <= tolerance).all()):
            raise SharedPrefixMismatch(
                "log-probabilities with shared prefixes differ from the plain forward's by "
                f"{difference.max():.2e} on average, where rounding explains "
                f"{tolerance.max():.2e}; set shared_prefix to off for this model"
            )
        return bool(compared.any())


def _fill_left_out(
    log_probs: Tensor, entropies: Tensor | None, policy: _PolicyPass
) -> tuple[Tensor, Tensor | None]:
    """Fill in rows that were left out, with a ratio of one and the mean entropy of the others.

    With another ratio the loss could contain 0 · inf, which is NaN; the entropy is only logged.
    """
    left_out = ~policy.rows[:, None]
    if policy.old_log_probs is not None:
        log_probs = torch.where(left_out, policy.old_log_probs.to(log_probs.dtype), log_probs)
    if entropies is not None:
        seen = policy.mask * ~left_out
        mean = (entropies.detach() * seen).sum() / seen.sum().clamp(min=1)
        entropies = torch.where(left_out, mean, entropies)
    return log_probs, entropies


def _two_to_compare(input_ids: Tensor, attention_mask: Tensor, num_tokens: int) -> list[int]:
    """Choose two rows of the batch: the longest completions, if possible of different prompts."""
    lengths = attention_mask[:, -num_tokens:].sum(1)
    first, *others = lengths.argsort(descending=True, stable=True).tolist()
    prompts = input_ids[:, :-num_tokens]
    # False sorts first, and the sort is stable.
    others.sort(key=lambda row: torch.equal(prompts[row], prompts[first]))
    return sorted([first, *others[:1]])


def _is_padded_outwards(attention_mask: Tensor, num_tokens: int) -> bool:
    """Return True if prompts are left-padded and not empty, and completions right-padded."""
    mask = attention_mask.bool()
    prompt, completion = mask[:, :-num_tokens], mask[:, -num_tokens:]
    rises = (prompt[:, :-1] <= prompt[:, 1:]).all() and prompt[:, -1].all()
    return bool(rises and (completion[:, :-1] >= completion[:, 1:]).all())
