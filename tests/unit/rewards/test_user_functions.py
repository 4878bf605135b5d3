"""Call a user's reward: by row, by batch as in TRL, async, within a time limit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.grpo.reward_functions import BatchScorer
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import Case, Reward, build_rewards

SOURCE = """
import asyncio, os, time

def by_row(completion, row):
    return float(completion == row["answer"])

def by_batch(prompts, completions, **columns):
    assert len(prompts) == len(completions) == len(columns["answer"])
    return [float(c == a) + len(p) for p, c, a in zip(prompts, completions, columns["answer"])]

def some_columns(completions, topic):
    return [len(c) * (t == "maths") for c, t in zip(completions, topic)]

def too_few(completions, **kwargs):
    return [1.0]

async def slow(completion, row):
    await asyncio.sleep(0.3)
    return float(completion)

async def slow_batch(completions, **kwargs):
    await asyncio.sleep(0.01)
    return [float(c) for c in completions]

async def hangs(completion, row):
    await asyncio.sleep(60 if completion == "hang" else 0)
    return 1.0

def sleeps(completion, row):
    time.sleep({"hang": 60, "slow": 0.5}.get(completion, 0))
    return os.getpid() if completion == "pid" else 1.0

def exits(completion, row):
    if completion == "exit":
        os._exit(3)
    return 1.0

def raises(completion, row):
    print("to the user")
    raise KeyError("topic")
"""


def reward(folder: Path, name: str, **options: Any) -> Reward:
    (folder / "mine.py").write_text(SOURCE)
    mine = {"function": f"{folder}/mine.py:{name}", **options}
    return build_rewards(recipe({"mine": mine}))["mine"]


def recipe(rewards: dict[str, Any]) -> Recipe:
    return parse_recipe({"name": "x", "model": {"name": "embedded:x"}, "rewards": rewards})


def cases(*completions: str, **columns: Any) -> list[Case]:
    row = {"id": "train-0", "answer": "a", **columns}
    return [Case(completion, row, prompt="??") for completion in completions]


@pytest.mark.parametrize(
    ("name", "rewards"),
    [("by_row", [1, 0]), ("by_batch", [3, 2]), ("some_columns", [1, 1])],
)
def test_a_function_takes_a_row_or_a_batch_as_in_trl(
    tmp_path: Path, name: str, rewards: list[float]
) -> None:
    assert reward(tmp_path, name).batch(cases("a", "b", topic="maths")) == rewards


def test_a_batch_has_a_reward_for_each_completion(tmp_path: Path) -> None:
    few = reward(tmp_path, "too_few")
    assert few.batch(cases("a", "b")) == [None, None]
    assert "returned 1 rewards for 2 completions" in few.failure


def test_an_async_function_judges_a_batch_side_by_side(tmp_path: Path) -> None:
    slow = reward(tmp_path, "slow")
    start = time.monotonic()
    assert slow.batch(cases(*"1234567890")) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert time.monotonic() - start < 2  # one after the other: 3 s
    assert reward(tmp_path, "slow_batch").batch(cases("1", "2")) == [1, 2]


def test_a_call_over_the_limit_is_not_verified_and_the_others_are(tmp_path: Path) -> None:
    sleeps = reward(tmp_path, "sleeps", timeout_s=3)
    start = time.monotonic()
    assert sleeps.batch(cases("a", "hang", "b")) == [1, None, 1]
    assert time.monotonic() - start < 45
    assert "took longer than 3 s, so its worker was killed, on row train-0" in sleeps.failure
    pids = sleeps.batch(cases("pid", "pid"))
    assert os.getpid() not in pids


def test_slow_calls_run_side_by_side_in_workers(tmp_path: Path) -> None:
    sleeps = reward(tmp_path, "sleeps", timeout_s=30)
    sleeps.batch(cases(*["slow"] * 4))  # starts the workers
    start = time.monotonic()
    assert sleeps.batch(cases(*["slow"] * 8)) == [1] * 8
    assert time.monotonic() - start < 3.5  # one after the other: 4 s


def test_an_async_call_over_the_limit_is_not_verified_and_the_others_are(tmp_path: Path) -> None:
    hangs = reward(tmp_path, "hangs", timeout_s=1)
    assert hangs.batch(cases("a", "hang", "b")) == [1, None, 1]
    assert "took longer than 1 s, so it was cancelled" in hangs.failure


def test_a_function_by_batch_is_limited_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "batch.py").write_text(
        "import time\ndef f(completions, **kwargs):\n    time.sleep(60)\n"
    )
    spec = {"function": f"{tmp_path}/batch.py:f", "timeout_s": 0.5}
    assert build_rewards(recipe({"mine": spec}))["mine"].batch(cases("a", "b")) == [None, None]


def test_a_worker_that_ends_or_raises_fails_its_call_only(tmp_path: Path) -> None:
    exits = reward(tmp_path, "exits", timeout_s=30)
    assert exits.batch(cases("a", "exit", "b")) == [1, None, 1]
    assert "ended its worker with exit code 3" in exits.failure
    raises = reward(tmp_path, "raises", timeout_s=30)
    assert raises.batch(cases("a")) == [None]
    assert "mine.py:raises raised KeyError: 'topic', on row train-0" in raises.failure


def test_training_gives_the_prompts_to_a_function_of_trl(tmp_path: Path) -> None:
    scorer = BatchScorer({"mine": reward(tmp_path, "by_batch")}, 0.05)
    (function,) = scorer.reward_functions()
    scores = function(
        completions=["a", "b"], prompts=["1", "22"], row=['{"answer": "a"}'] * 2,
        completion_ids=[[1], [2]],
    )  # fmt: skip
    assert scores == [2.0, 2.0]


def test_a_limit_needs_a_function() -> None:
    with pytest.raises(ConfigError, match=r"timeout_s limits the calls of your own function"):
        recipe({"correctness": {"timeout_s": 3}})
