import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from rlvr_trainer import data
from rlvr_trainer.data.identity import files_identity
from rlvr_trainer.errors import ConfigError, DataError, RLVRError
from rlvr_trainer.evaluation.shards import batches
from rlvr_trainer.recipe.parts import recipe_part
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe, shipped_recipes
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import build_judge, build_rewards, score
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout

SHIPPED = shipped_recipes()


def recipe(*overrides: str, name: str = "gsm8k") -> Recipe:
    return load_recipe(name, overrides)


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


def test_a_users_task_may_read_every_field() -> None:
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


def test_rows_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: .* cannot be read"):
        files_identity(recipe(f"data.train={tmp_path}/none.jsonl"))


def test_named_files_are_identified_by_content(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "mine.py", "helper.py"):
        (tmp_path / name).write_text("import helper\n")
    named = recipe(f"rewards.mine.function={tmp_path}/mine.py:mine")
    before = files_identity(named)
    (tmp_path / "rows.jsonl").write_text("")
    assert files_identity(named) == before
    (tmp_path / "helper.py").write_text("")
    assert files_identity(named) != before


CODE = """
def even(completion, row):
    return float(len(completion) % 2 == 0)

def answered(completion, row):
    return float(row["answer"] in completion)
"""
COMPLETIONS = ("", "odd", "even", "#### The final answer is 5", "A: 5", "A: 5\nQ: more\nA: 6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a user's code, and rows with answers in digits and in words."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(CODE)
    rows = [{"question": f"{i} + 1?", "answer": i + 1 if i % 3 else "one"} for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def sections(folder: Path) -> st.SearchStrategy[dict[str, Any]]:
    """Generate recipe trees, most of them valid."""
    function = st.sampled_from(["", f"{folder}/mine.py:even", f"{folder}/mine.py:answered"])
    reward = st.fixed_dictionaries({"function": function}, optional={"weight": st.floats(0, 9)})
    mine = st.fixed_dictionaries({"function": st.just(f"{folder}/mine.py:even")})
    small, fraction = st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.5, 1.0])
    tokens = st.integers(8, 200)
    ours = st.fixed_dictionaries(
        {}, optional={"format": reward, "correctness": reward, "brevity": mine}
    )
    data = st.fixed_dictionaries(
        {
            "train": st.sampled_from(["", *[f"{folder}/rows.jsonl"] * 3]),
            "num_exemplars": small,
            "num_train_rows": st.integers(20, 40),
            "max_quarantined_fraction": st.sampled_from([0.1, 1.0, 1.0]),
            "num_test_rows": st.integers(2, 9),
        },
        optional={
            "test_fraction": st.sampled_from([0.2, 0.5]),
            "validation_fraction": st.sampled_from([0.0, 0.2]),
            "select": st.sampled_from([["train-1"], ["train-2", "train-4"]]),
            "repeat_to_batch": st.booleans(),
        },
    )
    prompt = st.fixed_dictionaries(
        {"num_shots": small},
        optional={
            "answer_marker": st.sampled_from(["A:", "#### The final answer is"]),
            "solution_template": st.sampled_from([" A: {answer}", " {answer}"]),
            "stop": st.sampled_from(["Q:", "Question:"]),
        },
    )
    evaluation = st.fixed_dictionaries(
        {"correct_by": st.sampled_from(["format", "correctness", "brevity", "brevity"])},
        optional={
            "shots": st.lists(small, unique=True, max_size=2),
            "num_rows": st.integers(1, 5),
            "batch_size": st.integers(1, 4),
            "max_completion_tokens": tokens,
            "pass_at_k": st.just({"num_samples": 2, "k": [1, 2]}),
        },
    )
    training = st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": st.floats(1e-6, 1e-3),
            "max_steps": st.integers(1, 9),
            "per_device_batch_size": st.sampled_from([4, 8, 16]),
            "gradient_accumulation_steps": st.integers(1, 2),
            "max_verifier_failures": fraction,
        },
    )
    sampling = st.fixed_dictionaries(
        {},
        optional={
            "num_generations": st.sampled_from([2, 4, 8]),
            "max_completion_tokens": tokens,
            "temperature": st.floats(0.5, 2),
        },
    )
    model = st.fixed_dictionaries(
        {"name": st.just("embedded:smollm2-135m-instruct")},
        optional={
            "context_length": st.sampled_from([150, 400, 2048]),
            "dtype": st.sampled_from(["bf16", "fp32"]),
        },
    )
    return st.fixed_dictionaries(
        {
            "name": st.just("whole"),
            "task": st.sampled_from(["arithmetic", "question-answer"]),
            "model": model,
            "data": data,
            "prompt": prompt,
            "evaluation": evaluation,
            "rewards": st.one_of(
                ours, st.just({"brevity": {"function": f"{folder}/mine.py:even"}})
            ),
        },
        optional={
            "seed": small,
            "lora": st.just(None),
            "quantization": st.just({}),
            "sampling": sampling,
            "training": training,
            "grpo": st.just({"beta": 0.1}),
            "shared_prefix": st.sampled_from(["on", "off"]),
        },
    )


def prepared(of: Recipe) -> dict[str, bytes] | str:
    """Return the prepared files, or the error."""
    with TemporaryDirectory() as target, patch("os.fsync"):
        try:
            data.prepare(of, Path(target), count_tokens=len)
        except RLVRError as error:
            return f"{type(error).__name__}: {error}"
        return {path.name: path.read_bytes() for path in Path(target).glob("*.jsonl")}


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(drawn=st.data())
def test_part_and_whole_have_the_same_rows_judge_rewards_and_prompts(
    folder: Path, drawn: st.DataObject
) -> None:
    try:
        whole = parse_recipe(drawn.draw(sections(folder)))
    except ConfigError:
        reject()
    rows = prepared(whole)
    assert prepared(recipe_part(whole, "prepare")) == rows

    shown = Row("train-1", "4 + 1?", "5", "4 + 1 = 5")
    layout = PromptLayout(whole.prompt, [shown] * 3)
    for step in ("evaluate-base", "evaluate-trained"):
        part = recipe_part(whole, step)
        judges = [build_judge(side) for side in (whole, part)]
        rewards = [build_rewards(side) for side in (whole, part)]
        for completion in COMPLETIONS:
            first, second = (judge(completion, shown.columns) for judge in judges)
            assert first == second
            one, other = (score(functions, completion, shown.columns) for functions in rewards)
            assert one == other
        assert batches(part, [shown] * 7) == batches(whole, [shown] * 7)
        own = PromptLayout(part.prompt, [shown] * 3)
        for shots in whole.evaluated_shots:
            assert own.prompt(shown, shots) == layout.prompt(shown, shots)
        for same in ("evaluated_shots", "evaluation_max_completion_tokens", "quantization",
                     "model", "shared_prefix"):  # fmt: skip
            assert getattr(part, same) == getattr(whole, same)
        assert part.training.max_verifier_failures == whole.training.max_verifier_failures
        assert (part.lora == whole.lora) or step == "evaluate-base"
