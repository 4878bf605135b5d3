"""Explain from the metrics of its steps why a training did not change the adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr_trainer.errors import RewardError, RLVRError
from rlvr_trainer.recipe.schema import Recipe

UNCHANGED = "the adapter did not change in training"


def unchanged_error(log_history: Sequence[Mapping[str, Any]], recipe: Recipe) -> RLVRError:
    """Return the error for an adapter that did not change, with the reasons that apply.

    `log_history` is that of TRL's trainer state, with one entry per step.
    """
    steps = [entry for entry in log_history if "reward" in entry]

    def always(key: str, value: float) -> bool:
        return bool(steps) and all(step.get(key) == value for step in steps)

    means = [step.get(f"rewards/{name}/mean", 0.0) for step in steps for name in recipe.rewards]
    if means and all(map(math.isnan, means)):
        return RewardError(f"{UNCHANGED}: no completion could be verified; fix the reward")
    limit = recipe.sampling.max_completion_tokens
    reasons = {
        f"all completions were cut at sampling.max_completion_tokens = {limit} (raise it)": always(
            "completions/clipped_ratio", 1
        ),
        "every group had equal rewards": always("frac_reward_zero_std", 1),
        "the learning rate was 0 in all steps, as it is at the start of a warm-up": always(
            "learning_rate", 0
        ),
    }
    shown = ", and ".join(reason for reason, holds in reasons.items() if holds)
    return RLVRError(
        f"{UNCHANGED}: {shown or 'no step had a gradient'}; look at completions/clipped_ratio, "
        "frac_reward_zero_std, reward and learning_rate in metrics.jsonl"
    )
