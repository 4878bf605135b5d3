"""The rewards of a recipe as verifiers: functions of (completion, row)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.rewards.answer import correctness_reward, format_reward
from rlvr_trainer.rewards.user_code import load_user_code

if TYPE_CHECKING:
    from rlvr_trainer.recipe import PromptSection, Recipe

logger = logging.getLogger(__name__)

Verifier = Callable[[str, Mapping[str, Any]], float | None]
"""(completion, row's columns) → reward, or None when it could not be verified."""


def build_rewards(recipe: Recipe) -> dict[str, Verifier]:
    """A verifier for each reward of the recipe, in the recipe's order and without its weight.

    Raises ConfigError when a function of the user's cannot be loaded.
    """
    return {
        name: _user_verifier(name, reward.function)
        if reward.function
        else REWARDS[name](recipe.prompt)
        for name, reward in recipe.rewards.items()
    }


def build_judge(recipe: Recipe) -> Verifier:
    """The verifier by which an evaluation calls a completion correct: where it gives more than 0.

    Raises ConfigError when a function of the user's cannot be loaded.
    """
    name = recipe.evaluation.correct_by
    reward = recipe.rewards.get(name)
    if reward and reward.function:
        return _user_verifier(name, reward.function)
    return REWARDS[name](recipe.prompt)


def needs_numbers(recipe: Recipe) -> str:
    """Return the field by which only answers that are numbers can be judged; empty: none is."""
    reward = recipe.rewards.get("correctness")
    if reward and not reward.function:
        return "rewards.correctness"
    judged_by_ours = recipe.evaluation.correct_by == "correctness" and not reward
    return "evaluation.correct_by" if judged_by_ours else ""


def score(
    verifiers: Mapping[str, Verifier], completion: str, row: Mapping[str, Any]
) -> dict[str, float] | None:
    """What each verifier gives, or None when any of them fails.

    A completion that one verifier cannot judge is judged by none: a partial sum would stand in its
    group's baseline as if it were a low reward.
    """
    scores: dict[str, float] = {}
    for name, verify in verifiers.items():
        value = verify(completion, row)
        if value is None:
            return None
        scores[name] = value
    return scores


def _format(prompt: PromptSection) -> Verifier:
    marker, stop = prompt.answer_marker, prompt.stop

    def verify(completion: str, row: Mapping[str, Any]) -> float | None:
        return format_reward(completion, marker=marker, stop=stop)

    return verify


def _correctness(prompt: PromptSection) -> Verifier:
    marker, stop = prompt.answer_marker, prompt.stop

    def verify(completion: str, row: Mapping[str, Any]) -> float | None:
        answer = row.get("answer")
        if not isinstance(answer, str):
            return None
        return correctness_reward(completion, answer, marker=marker, stop=stop)

    return verify


REWARDS: Mapping[str, Callable[[PromptSection], Verifier]] = {
    "format": _format,
    "correctness": _correctness,
}
"""Our rewards by name, each made for the prompt that completions answer."""


def _user_verifier(name: str, spec: str) -> Verifier:
    function = load_user_code(spec, field=f"rewards.{name}.function")
    if not callable(function):
        raise ConfigError(
            f"rewards.{name}.function: {spec!r} is a {type(function).__name__}, not a function; "
            "name a function of (completion, row)"
        )
    complained = False

    def fail(reason: str) -> None:
        nonlocal complained
        if not complained:
            complained = True
            logger.warning("reward %s (%s) %s; later failures are only counted", name, spec, reason)

    def verify(completion: str, row: Mapping[str, Any]) -> float | None:
        try:
            value = function(completion, row)
            if value is None:
                return None
            if isinstance(value, (str, bytes)):
                raise TypeError(f"returned {value!r}, not a number")
            number = float(value)
        except (Exception, SystemExit) as error:
            fail(f"raised {type(error).__name__}: {error}")
            return None
        if not math.isfinite(number):
            fail(f"returned {number}")
            return None
        return number

    return verify
