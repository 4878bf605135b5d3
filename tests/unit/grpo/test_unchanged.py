"""Explain a training that changed nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr_trainer.errors import RewardError
from rlvr_trainer.grpo.unchanged import unchanged_error
from rlvr_trainer.recipe.reader import parse_recipe

RECIPE = parse_recipe({"name": "x", "model": {"name": "embedded:x"}})
LEARNS = {
    "reward": 0.5, "rewards/format/mean": 0.5, "rewards/correctness/mean": 0.0,
    "learning_rate": 1e-5, "frac_reward_zero_std": 0.5, "completions/clipped_ratio": 0.5,
}  # fmt: skip
CUT = "all completions were cut at sampling.max_completion_tokens = 256 (raise it)"
EQUAL = "every group had equal rewards"
STILL = "the learning rate was 0 in all steps"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completions/clipped_ratio": 1.0}, {CUT}),
        ({"frac_reward_zero_std": 1.0}, {EQUAL}),
        ({"learning_rate": 0.0}, {STILL}),
        ({"completions/clipped_ratio": 1.0, "frac_reward_zero_std": 1.0}, {CUT, EQUAL}),
        ({}, set()),
    ],
)
def test_only_reasons_shown_by_the_metrics_are_given(
    change: dict[str, Any], said: set[str]
) -> None:
    history = [LEARNS | change, LEARNS | change, {"train_runtime": 1.0}]
    message = str(unchanged_error(history, RECIPE))
    assert {reason for reason in (CUT, EQUAL, STILL) if reason in message} == said
    assert not any(
        reason in str(unchanged_error([LEARNS, *history], RECIPE)) for reason in (CUT, EQUAL, STILL)
    )


def test_rewards_that_verified_nothing_are_named_as_the_reason() -> None:
    nothing = {"rewards/format/mean": float("nan"), "rewards/correctness/mean": float("nan")}
    error = unchanged_error([LEARNS | nothing | {"frac_reward_zero_std": 1.0}], RECIPE)
    assert isinstance(error, RewardError)
    assert EQUAL not in str(error)
