"""Build the rewards of a recipe as verifiers: functions of (completion, row)."""

from __future__ import annotations

import logging
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.rewards.answer import correctness_reward, format_reward
from rlvr_trainer.rewards.user_code import load_user_code

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import PromptSection, Recipe

logger = logging.getLogger(__name__)

Verifier = Callable[[str, Mapping[str, Any]], float | None]
"""(completion, row's columns) → reward, or None if it could not be verified."""

MAX_REASON_CHARACTERS = 300


class Unverifiable(Exception):
    """A reward returned no number, for the reason in the message."""


class Reward:
    """A reward of the recipe as a Verifier; never raises, keeps and logs its first failure."""

    def __init__(self, label: str, function: Callable[[str, Mapping[str, Any]], Any]) -> None:
        self.label = label
        """Name in messages: the recipe's field and, for a user's reward, the code."""
        self.failure = ""
        """The first failure: reward, reason and row. Empty if there is none."""
        self._function = function

    def __call__(self, completion: str, row: Mapping[str, Any]) -> float | None:
        try:
            return self.verify(completion, row)
        except Unverifiable as error:
            if not self.failure:
                self.failure = str(error)
                logger.warning("%s; later failures are only counted", self.failure)
            return None

    def verify(self, completion: str, row: Mapping[str, Any]) -> float:
        """Return the reward. Raises Unverifiable, which names reward, reason and row."""
        try:
            return _number(self._function(completion, dict(row)))  # a copy, which it may change
        except (Exception, SystemExit) as error:
            raised = "" if isinstance(error, Unverifiable) else f"raised {type(error).__name__}: "
            reason = " ".join(f"{raised}{error}".split())[:MAX_REASON_CHARACTERS]
            where = f"row {row.get('id', 'without an id')}"
            raise Unverifiable(f"{self.label} {reason}, on {where}") from error


def build_rewards(recipe: Recipe) -> dict[str, Reward]:
    """Build each reward of the recipe, in the recipe's order and without its weight.

    Raises ConfigError if a user's function cannot be loaded.
    """
    return {name: _build(recipe, name) for name in recipe.rewards}


def build_judge(recipe: Recipe) -> Reward:
    """Build the judge: the reward that is above 0 if a completion is correct.

    Raises ConfigError if a user's function cannot be loaded.
    """
    return _build(recipe, recipe.evaluation.correct_by)


def first_failure(rewards: Mapping[str, Verifier]) -> str:
    """Return the first failure of the first reward that has one, for a message."""
    failures = (getattr(reward, "failure", "") for reward in rewards.values())
    return next(filter(None, failures), "a reward returned None")


def needs_numbers(recipe: Recipe) -> str:
    """Return the field that requires answers to be numbers, or an empty text."""
    reward = recipe.rewards.get("correctness")
    if reward and not reward.function:
        return "rewards.correctness"
    judged_by_built_in = recipe.evaluation.correct_by == "correctness" and not reward
    return "evaluation.correct_by" if judged_by_built_in else ""


def score(
    verifiers: Mapping[str, Verifier], completion: str, row: Mapping[str, Any]
) -> dict[str, float] | None:
    """Return the reward of each verifier, or None if any of them fails.

    A partial sum would count in the group's baseline as if it were a low reward.
    """
    scores: dict[str, float] = {}
    for name, verify in verifiers.items():
        value = verify(completion, row)
        if value is None:
            return None
        scores[name] = value
    return scores


def _build(recipe: Recipe, name: str) -> Reward:
    reward = recipe.rewards.get(name)
    if not (reward and reward.function):
        return Reward(f"rewards.{name}", REWARDS[name](recipe.prompt))
    field = f"rewards.{name}.function"
    function = load_user_code(reward.function, field=field)
    if not callable(function):
        raise ConfigError(
            f"{field}: {reward.function!r} is a {type(function).__name__}, not a function; "
            "name a function of (completion, row)"
        )
    return Reward(f"{field}: {reward.function}", function)


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        kind = "" if isinstance(value, float | None) else f", a {type(value).__name__}"
        raise Unverifiable(f"returned {reprlib.repr(value)}{kind}, not a finite number")
    return number


def _format(prompt: PromptSection) -> Verifier:
    marker, stop = prompt.answer_marker, prompt.stop

    def verify(completion: str, row: Mapping[str, Any]) -> float | None:
        return format_reward(completion, marker=marker, stop=stop)

    return verify


def _correctness(prompt: PromptSection) -> Verifier:
    marker, stop = prompt.answer_marker, prompt.stop

    def verify(completion: str, row: Mapping[str, Any]) -> float | None:
        answer = row.get("answer")
        value = None
        if isinstance(answer, str):
            value = correctness_reward(completion, answer, marker=marker, stop=stop)
        if value is None:
            raise Unverifiable(
                f"cannot judge the answer {reprlib.repr(answer)}, which is not a number"
            )
        return value

    return verify


REWARDS: Mapping[str, Callable[[PromptSection], Verifier]] = {
    "format": _format,
    "correctness": _correctness,
}
"""Factories of the built-in rewards by name; they take the prompt's markers."""
