from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from rlvr_trainer.data import prepare
from rlvr_trainer.errors import ConfigError, RewardError
from rlvr_trainer.evaluation.completions import Completion
from rlvr_trainer.evaluation.evaluate_model import Evaluator, _check_judged, evaluate_shard
from rlvr_trainer.evaluation.shards import Shard
from rlvr_trainer.grpo.reward_functions import BatchScorer
from rlvr_trainer.grpo.training import _dataset
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout

ODD: list[dict[str, Any]] = [
    {"meta": 1},
    {"meta": "x"},
    {"half": "\ud800"},
    {"big": 2**70},
    {"image": "none"},
    {"prompts": [1, {"a": None}]},
    {"prompt": "mine"},
    {"trainer_state": 0.5},
]
MINE = """
def names(completion, row):
    return None if "?" in completion else float(row["answer"] in completion)
"""
ROWS = [Row(f"train-{n}", f"{n}?", str(n), "", extra) for n, extra in enumerate(ODD)]


def test_a_reward_sees_each_row_with_its_own_columns() -> None:
    """Names and values are arbitrary, and other rows may have other columns."""
    recipe = parse_recipe(
        {"name": "x", "model": {"name": "embedded:x"}, "prompt": {"num_shots": 0}}
    )
    layout, seen = PromptLayout(recipe.prompt, ()), []

    def reward(completion: str, row: Any) -> float:
        seen.append(row)
        return 1.0

    batch = _dataset(ROWS, layout)
    assert batch["prompt"][:] == [layout.prompt(row) for row in ROWS]
    (function,) = BatchScorer({"reward": reward}, 0.0).reward_functions()
    function(completions=["a"] * len(ROWS), row=batch["row"][:], trainer_state=object())
    assert seen == [row.columns for row in ROWS]


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    """Return an evaluator without a model whose completions are judged by a user's reward."""
    (tmp_path / "mine.py").write_text(MINE)
    recipe = parse_recipe(
        {
            "name": "x",
            "model": {"name": "embedded:x"},
            "rewards": {"names": {"function": f"{tmp_path}/mine.py:names"}},
            "evaluation": {"correct_by": "names"},
        }
    )
    return Evaluator(recipe, *cast("Any", (None, None, None)), "before")


@pytest.mark.parametrize(("text", "correct"), [(" It is 3.", True), (" No.", False)])
def test_a_users_reward_may_judge(text: str, correct: bool, evaluator: Evaluator) -> None:
    (judged,) = evaluator._judge([ROWS[3]], [Completion([], text, finished=True)], [""], 0)
    assert judged.correct is correct
    _check_judged(evaluator, 1)


def test_failed_judgements_are_reported_and_too_many_are_an_error(
    evaluator: Evaluator, caplog: pytest.LogCaptureFixture
) -> None:
    (judged,) = evaluator._judge([ROWS[3]], [Completion([], "?", finished=True)], [""], 0)
    assert not judged.correct
    _check_judged(evaluator, 20)
    assert "1 of 20 completions could not be judged" in caplog.text
    with pytest.raises(
        RewardError, match=r"1 of 19 .* first that of train-3, over .*returned None"
    ):
        _check_judged(evaluator, 19)


@pytest.mark.parametrize("function", ["./nope.py:f", "ends.py:f"])
def test_a_reward_that_cannot_be_loaded_costs_no_evaluation(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ends.py").write_text("raise SystemExit(0)")
    recipe = parse_recipe(
        {"name": "x", "model": {"name": "embedded:x"}, "rewards": {"f": {"function": function}}}
    )
    with pytest.raises(ConfigError, match=r"rewards\.f\.function"):
        evaluate_shard(recipe, tmp_path / "no-data", Shard(), label="before")


def test_a_reward_that_fails_on_a_gold_completion_costs_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("def f(completion, row): return row['topic']")
    tree = {"name": "x", "task": "arithmetic", "model": {"name": "embedded:x"}}
    mine = {"f": {"function": f"{tmp_path}/mine.py:f"}}
    # prepared before the reward was set, or without its code
    prepare(parse_recipe(tree), tmp_path / "data", count_tokens=len)
    monkeypatch.setattr("rlvr_trainer.evaluation.evaluate_model.load_model", None)
    with pytest.raises(ConfigError, match=r"mine\.py:f raised KeyError: 'topic', on row test-0"):
        evaluate_shard(
            parse_recipe(tree | {"rewards": mine}), tmp_path / "data", Shard(), label="before"
        )
