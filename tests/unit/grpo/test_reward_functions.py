from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest

from rlvr_trainer.errors import RewardError
from rlvr_trainer.grpo.reward_functions import BatchScorer
from rlvr_trainer.rewards import Reward


def rows(*answers: str) -> list[str]:
    """Return the column that holds each row's columns."""
    return [json.dumps({"answer": answer}) for answer in answers]


def length(completion: str, row: Mapping[str, Any]) -> float | None:
    return float(len(completion))


def right(completion: str, row: Mapping[str, Any]) -> float | None:
    return None if row["answer"] == "?" else float(completion == row["answer"])


def test_each_verifier_is_a_reward_function_named_after_it() -> None:
    functions = BatchScorer({"length": length, "right": right}, 0.05).reward_functions()
    assert [function.__name__ for function in functions] == ["length", "right"]
    completions = ["4", "44"]
    batch = {"row": rows("4", "4"), "prompts": ["a", "b"], "trainer_state": object()}
    assert functions[0](completions=completions, **batch) == [1.0, 2.0]
    assert functions[1](completions=completions, **batch) == [1.0, 0.0]


def test_a_row_that_one_verifier_cannot_judge_is_judged_by_none() -> None:
    functions = BatchScorer({"length": length, "right": right}, 1.0).reward_functions()
    completions = ["4", "44"]
    for function in functions:
        assert function(completions=completions, row=rows("?", "4"))[0] is None
        assert function(completions=completions, row=rows("?", "4"))[1] is not None


def test_a_batch_is_scored_once_for_all_functions() -> None:
    calls = 0

    def count(completion: str, row: Mapping[str, Any]) -> float:
        nonlocal calls
        calls += 1
        return 0.0

    functions = BatchScorer({"a": count, "b": count}, 0.05).reward_functions()
    first, second = ["x", "y"], ["x", "y"]
    for completions in (first, second):
        for function in functions:
            function(completions=completions, row=rows("1", "1"))
    assert calls == 2 * 2 * 2


def test_too_many_failures_end_the_run() -> None:
    function, _ = BatchScorer({"a": right, "b": length}, 0.05).reward_functions()
    function(completions=["x"] * 63, row=rows("?") * 63)  # too few to judge
    with pytest.raises(RewardError, match="64 of 64 completions could not be verified"):
        function(completions=["x"], row=rows("?"))


def test_failures_under_the_threshold_are_tolerated() -> None:
    (function,) = BatchScorer({"a": right}, 0.05).reward_functions()
    rewards = function(completions=["4"] * 100, row=rows("?") * 5 + rows("4") * 95)
    assert rewards.count(None) == 5
    assert math.fsum(reward or 0 for reward in rewards) == 95


@pytest.mark.parametrize(("num_failed", "num_scored"), [(16, 16), (24, 48), (1, 4)])
def test_at_the_end_few_completions_are_judged_too(num_failed: int, num_scored: int) -> None:
    scorer = BatchScorer({"a": right}, 0.05)
    (function,) = scorer.reward_functions()
    answers = rows("?") * num_failed + rows("4") * (num_scored - num_failed)
    function(completions=["4"] * num_scored, row=answers)  # too few to judge while it trains
    with pytest.raises(RewardError, match=rf"{num_failed} of {num_scored} completions"):
        scorer.check()


def test_at_the_end_failures_under_the_threshold_are_tolerated() -> None:
    scorer = BatchScorer({"a": right}, 0.05)
    scorer.check()
    (function,) = scorer.reward_functions()
    function(completions=["4"] * 40, row=rows("?") * 2 + rows("4") * 38)
    scorer.check()


def test_the_ranks_are_judged_together_and_say_the_same() -> None:
    def fails(completion: str, row: Mapping[str, Any]) -> float:
        raise KeyError("topic")

    failing = BatchScorer({"a": Reward("rewards.a.function: a.py:f", fails)}, 0.05)
    fine = BatchScorer({"a": right}, 0.05)
    for scorer in (failing, fine):
        scorer.reward_functions()[0](completions=["4"] * 8, row=rows("4") * 8)
    counts: list[Any] = []
    with pytest.raises(RewardError, match="8 of 8"):
        failing.check(lambda count: counts.append(count) or [count])
    expected = r"8 of 16 .* rewards\.a\.function: a\.py:f raised KeyError: 'topic'"
    with pytest.raises(RewardError, match=expected):
        fine.check(lambda count: [count, *counts])
