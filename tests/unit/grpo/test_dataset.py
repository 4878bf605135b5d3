from __future__ import annotations

from typing import Any, cast

import pytest

from rlvr_trainer.evaluate import Evaluator
from rlvr_trainer.generation import Completion
from rlvr_trainer.grpo.rewards import BatchScorer
from rlvr_trainer.grpo.run import _dataset
from rlvr_trainer.prompt import PromptLayout
from rlvr_trainer.recipe_file import parse_recipe
from rlvr_trainer.tasks import Row

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
ROWS = [Row(f"train-{n}", f"{n}?", str(n), "", extra) for n, extra in enumerate(ODD)]


def test_a_reward_sees_each_row_with_its_own_columns() -> None:
    """Whatever they are called and hold, and whichever of them other rows have."""
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


@pytest.mark.parametrize(("text", "correct"), [(" It is 3.", True), (" No.", False)])
def test_a_reward_of_the_users_may_judge(text: str, correct: bool, tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "def names(completion, row):\n    return float(row['answer'] in completion)\n"
    )
    recipe = parse_recipe(
        {
            "name": "x",
            "model": {"name": "embedded:x"},
            "rewards": {"names": {"function": f"{tmp_path}/mine.py:names"}},
            "evaluation": {"correct_by": "names"},
        }
    )
    evaluator = Evaluator(recipe, *cast("Any", (None, None, None)), "before")
    judged = evaluator._judge(ROWS[3], Completion([], text, finished=True), 0)
    assert judged.correct is correct
