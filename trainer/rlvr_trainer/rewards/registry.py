"""Build the rewards of a recipe, and score completions by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlvr_trainer.rewards.reward import Reward, VerifierReward
from rlvr_trainer.rewards.user_function import UserReward
from rlvr_trainer.verifiers import Case, Format, Verifier

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

RowFunction = Callable[[str, Mapping[str, Any]], float | None]
"""(completion, row's columns) → reward, or None if it could not be verified."""


def build_rewards(recipe: Recipe) -> dict[str, Reward]:
    """Build each reward of the recipe, in the recipe's order and without its weight.

    Raises ConfigError if a user's function cannot be loaded.
    """
    return {name: build_reward(recipe, name) for name in recipe.rewards}


def build_judge(recipe: Recipe) -> Reward:
    """Build the judge: the reward that is above 0 if a completion is correct.

    Raises ConfigError if a user's function cannot be loaded.
    """
    return build_reward(recipe, recipe.evaluation.correct_by)


def build_reward(recipe: Recipe, name: str) -> Reward:
    """Build a reward of the recipe, or the built-in of this name.

    Raises ConfigError if a user's function cannot be loaded.
    """
    verifier = build_verifier(recipe, name)
    if verifier:
        return VerifierReward(f"rewards.{name}", verifier, recipe.prompt.place)
    reward = recipe.user_functions[name]
    return UserReward(f"rewards.{name}.function", reward.function, reward.timeout_s)


def build_verifier(recipe: Recipe, name: str) -> Verifier | None:
    """Return the verifier of a reward, or None for a user's function."""
    verifier = recipe.verifier_of(name)
    return verifier.of(recipe.answer_kind) if isinstance(verifier, Format) else verifier


def first_failure(rewards: Mapping[str, RowFunction]) -> str:
    """Return the first failure of the first reward that has one, for a message."""
    failures = (getattr(reward, "failure", "") for reward in rewards.values())
    return next(filter(None, failures), "a reward returned None")


def score(
    rewards: Mapping[str, RowFunction], completion: str, row: Mapping[str, Any]
) -> dict[str, float] | None:
    """Return the value of each reward, or None if any of them fails."""
    return score_batch(rewards, [Case(completion, row)])[0]


def score_batch(
    rewards: Mapping[str, RowFunction], cases: Sequence[Case]
) -> list[dict[str, float] | None]:
    """Return the value of each reward for each completion, or None if any of them fails.

    A partial sum would count in the group's baseline as if it were a low reward.
    """
    columns = [
        (reward if isinstance(reward, Reward) else Reward(name, reward)).batch(cases)
        for name, reward in rewards.items()
    ]
    scores = []
    for values in zip(*columns, strict=True):
        known = [value for value in values if value is not None]
        scores.append(dict(zip(rewards, known, strict=True)) if len(known) == len(values) else None)
    return scores
