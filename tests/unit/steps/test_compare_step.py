from typing import Any

import pytest
import yaml

from rlvr_components.steps.compare_step import is_better, summarise
from rlvr_trainer import __version__
from rlvr_trainer.evaluation.outcome import compare
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe

RECIPE = load_recipe("arithmetic", ["seed=5"])


def samples(num_correct: int, label: str) -> list[dict[str, Any]]:
    return [
        {
            "model": label,
            "shots": 8,
            "id": f"test-{i}",
            "sample": 0,
            "greedy": True,
            "question": "",
            "answer": "1",
            "completion": "",
            "extracted": None,
            "format": True,
            "correct": i < num_correct,
            "flexible": True,
            "num_tokens": 9,
        }
        for i in range(40)
    ]


def evaluation(before: int, after: int) -> dict[str, Any]:
    return compare(samples(before, "before"), samples(after, "after"), trained_shots=8)


@pytest.mark.parametrize(
    ("before", "after", "better"), [(4, 32, True), (4, 6, False), (4, 4, False), (32, 4, False)]
)
def test_better_is_higher_by_more_than_chance(before: int, after: int, better: bool) -> None:
    assert is_better(evaluation(before, after)) == better


def test_the_summary_gives_verdict_numbers_and_the_recipe_to_repeat_them() -> None:
    text = summarise(RECIPE, evaluation(4, 32))

    assert text.startswith("# Accuracy rose from 10.0 % to 80.0 % on 40 test rows")
    assert "| 8 | 40 | 10.0 % (4.0–23.1) | 80.0 % (65.2–89.5) | < 0.001 |" in text
    assert f"`rlvr run arithmetic.yaml` (rlvr {__version__}, recipe {RECIPE.hash})" in text
    repeated = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert parse_recipe(repeated).hash == RECIPE.hash
