from __future__ import annotations

from pathlib import Path

import pytest

from rlvr_trainer.data import load_exemplars, load_rows, prepare
from rlvr_trainer.recipe.reader import load_recipe, shipped_recipes
from rlvr_trainer.rewards import build_rewards, score
from rlvr_trainer.tasks.prompt import PromptLayout

SHIPPED = shipped_recipes()


def num_tokens(text: str) -> int:
    """Estimate the number of tokens of a tokenizer with one token per digit."""
    return len(text) // 3


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_prepares_rows_that_its_own_verifier_rewards(
    name: str, tmp_path: Path
) -> None:
    recipe = load_recipe(name)
    prepare(recipe, tmp_path / "data", count_tokens=num_tokens)
    layout = PromptLayout(recipe.prompt, load_exemplars(tmp_path / "data"))
    verifiers = build_rewards(recipe)
    test = load_rows(tmp_path / "data", "test")
    for row in test[:50]:
        scores = score(verifiers, layout.completion(row), row.columns)
        assert scores == {"format": 0.5, "correctness": 1.0}
    train = load_rows(tmp_path / "data", "train")
    assert not {row.question for row in test} & {row.question for row in train}


def test_the_one_shot_recipe_trains_on_one_row_that_fills_the_batch(tmp_path: Path) -> None:
    recipe = load_recipe("gsm8k-one-shot")
    prepare(recipe, tmp_path / "data", count_tokens=num_tokens)
    rows = load_rows(tmp_path / "data", "train")
    assert {row.id for row in rows} == set(recipe.data.select)
    assert len(rows) * recipe.sampling.num_generations == recipe.device_generation_batch_size
