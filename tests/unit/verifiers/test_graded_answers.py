"""Grade completions that public graders are reported to grade wrongly."""

from __future__ import annotations

from functools import cache

import pytest

from rlvr_trainer.verifiers import AnswerPlace, Case, Math

from .graded_answers import GRADED, Graded


@cache
def rewards_of_math() -> list[float | None]:
    """Return the rewards of the cases of `math`, compared together as in a training."""
    cases = [graded for graded in GRADED if isinstance(graded.verifier, Math)]
    place = cases[0].place
    return Math(timeout_s=60).rewards([Case(case.completion, case.row) for case in cases], place)


def reward_of(graded: Graded) -> float | None:
    if not isinstance(graded.verifier, Math):
        return graded.verifier.reward(Case(graded.completion, graded.row), graded.place)
    cases = [other for other in GRADED if isinstance(other.verifier, Math)]
    return rewards_of_math()[cases.index(graded)]


@pytest.mark.parametrize(
    "graded", GRADED, ids=[f"{graded.verifier.verifier}-{graded.reason}" for graded in GRADED]
)
def test_a_completion_gets_the_right_verdict(graded: Graded) -> None:
    assert reward_of(graded) == graded.reward, f"{graded.completion[:200]!r}: {graded.reason}"


def test_the_table_has_at_least_150_completions() -> None:
    assert len({(graded.verifier, graded.completion, str(graded.row)) for graded in GRADED}) >= 150


def test_a_comparison_over_the_limit_is_not_verified() -> None:
    row = {"answer": "\\frac{x^2 - 1}{x - 1}"}
    assert Math(timeout_s=0.001).reward(Case("\\boxed{x + 1}", row), AnswerPlace("boxed")) is None


def test_a_gold_answer_that_math_verify_cannot_read_is_not_verified() -> None:
    row = {"answer": "}{"}
    assert Math(timeout_s=60).reward(Case("\\boxed{x + 1}", row), AnswerPlace("boxed")) is None
