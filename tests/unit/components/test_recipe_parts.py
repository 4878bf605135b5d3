from pathlib import Path

import pytest

from rlvr_components.recipe_parts import files_identity, recipe_part
from rlvr_trainer.errors import DataError
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import load_recipe, shipped_recipes

SHIPPED = shipped_recipes("rlvr_pipelines")


def recipe(*overrides: str, name: str = "gsm8k") -> Recipe:
    return load_recipe(name, overrides, shipped=SHIPPED)


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "training.learning_rate=1e-3",
        "training.max_steps=7",
        "lora.r=4",
        "grpo.beta=0.1",
        "sampling.temperature=0.9",
        "training.save_steps=3",
    ],
)
def test_how_it_is_trained_changes_neither_the_data_nor_the_base_models_answers(
    override: str,
) -> None:
    assert recipe_part(recipe(override), "prepare") == recipe_part(recipe(), "prepare")
    assert recipe_part(recipe(override), "evaluate-base") == recipe_part(recipe(), "evaluate-base")


@pytest.mark.parametrize(
    ("override", "data", "base"),
    [
        ("seed=7", True, True),
        ("data.num_test_rows=5", True, False),  # the base evaluation has the data as an input
        ("task=arithmetic", True, False),
        ("prompt.separator=' | '", True, True),
        ("evaluation.shots=[0]", True, True),
        ("evaluation.num_rows=10", False, True),
        ("model.dtype=fp32", False, True),
        ("model.context_length=1024", True, True),
        ("sampling.max_completion_tokens=99", True, True),
        ("quantization=null", False, True),
        ("shared_prefix='off'", False, True),
        ("rewards.correctness.weight=2", False, False),
        ("rewards.format.function=mine:f", True, True),
        ("evaluation.correct_by=format", True, True),
        ("training.max_verifier_failures=0.5", False, True),
    ],
)
def test_what_a_step_depends_on_changes_its_part(override: str, data: bool, base: bool) -> None:
    assert (recipe_part(recipe(override), "prepare") != recipe_part(recipe(), "prepare")) == data
    assert (
        recipe_part(recipe(override), "evaluate-base") != recipe_part(recipe(), "evaluate-base")
    ) == base


def test_a_task_of_ones_own_may_read_every_field() -> None:
    mine = recipe("task=my.module:Task")

    assert recipe_part(mine, "prepare") == mine


def test_the_length_of_an_evaluation_of_its_own_is_all_that_counts() -> None:
    own = ["evaluation.max_completion_tokens=32", "model.context_length=2000"]

    assert recipe_part(
        recipe(*own, "sampling.max_completion_tokens=64"), "evaluate-base"
    ) == recipe_part(recipe(*own), "evaluate-base")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_has_its_parts(name: str) -> None:
    whole = recipe(name=name)

    assert recipe_part(whole, "prepare").data == whole.data
    assert recipe_part(whole, "evaluate-base").evaluation == whole.evaluation


def test_batches_that_rows_are_repeated_for_are_part_of_the_data() -> None:
    one = ["data.select=[train-1]", "data.repeat_to_batch=true"]

    assert recipe_part(recipe(*one), "prepare") != recipe_part(
        recipe(*one, "sampling.num_generations=4"), "prepare"
    )


def test_changed_rows_have_another_identity(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1 + 1?", "answer": 2}\n')
    of_rows = recipe(f"data.train={rows}")
    before = files_identity(of_rows)
    assert before == files_identity(of_rows) != files_identity(recipe())

    rows.write_text('{"question": "1 + 1?", "answer": 3}\n')

    assert files_identity(of_rows) != before


def test_rows_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: .* cannot be read"):
        files_identity(recipe(f"data.train={tmp_path}/none.jsonl"))
