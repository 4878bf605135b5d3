"""Test that `rlvr init` writes a recipe that a run accepts, and says why and what is not sure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from rlvr_pipelines.cli import main
from rlvr_trainer.recipe.reader import load_recipe


def rlvr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def sums(num_rows: int = 60, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "question": f"Tom has {n} apples and buys {n + 3} more. How many has he?",
            "answer": f"Tom has {n} + {n + 3} = {2 * n + 3} apples.\n#### {2 * n + 3}",
        }
        for n in range(start, start + num_rows)
    ]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def renamed(rows: list[dict[str, Any]], **names: str) -> list[dict[str, Any]]:
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


def accepted(path: Path) -> None:
    """Check that `plan` and `reward check` take a recipe."""
    for command in (["plan"], ["reward", "check"]):
        result = rlvr(*command, path)
        assert result.exit_code == 0, result.output
        assert "warning" not in result.output


def test_a_file_of_questions_gets_a_recipe_beside_it_that_plan_and_reward_check_accept(
    tmp_path: Path,
) -> None:
    data = jsonl(tmp_path / "Word Problems.jsonl", sums())
    result = rlvr("init", data)
    assert result.exit_code == 0, result.output
    path = tmp_path / "word-problems.yaml"
    accepted(path)
    recipe = load_recipe(path)
    assert recipe.name == "word-problems"
    assert recipe.data.train == str(data)
    assert (recipe.prompt.num_shots, recipe.data.num_exemplars) == (4, 4)
    assert recipe.sampling.max_completion_tokens == 32
    assert recipe.training.per_device_batch_size == 16
    text = path.read_text("utf-8")
    assert "test_fraction: 0.2  # no test rows beside: a share of these" in text
    assert "# Not sure: whether 30 steps are enough." in text
    assert text in result.output
    assert {*tmp_path.iterdir()} == {data, path}


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("text", {"answer": "the Seine"}),
        ("choice", {"choices": ["the Seine", "the Rhine"], "answer": "A"}),
    ],
)
def test_answers_that_are_no_numbers_get_a_verifier_for_their_kind(
    kind: str, columns: dict[str, Any], tmp_path: Path
) -> None:
    others = {"text": "the Rhine", "choice": "B"}
    rows = [
        {"question": f"Which river is {n} km from town?", **columns}
        | ({"answer": others[kind]} if n % 2 else {})
        for n in range(60)
    ]
    data = jsonl(tmp_path / "rows.jsonl", rows)
    result = rlvr("init", data)
    assert result.exit_code == 0, result.output
    recipe = load_recipe(tmp_path / "rows.yaml")
    verifier = recipe.verifier_of("correctness")
    assert verifier
    assert verifier.verifier == kind
    assert ("{choices}" in recipe.prompt.question_template) == (kind == "choice")
    accepted(tmp_path / "rows.yaml")


def test_other_names_of_columns_and_a_test_file_beside_are_found(tmp_path: Path) -> None:
    names = {"question": "problem", "answer": "final_answer"}
    train = jsonl(tmp_path / "train.jsonl", renamed(sums(), **names))
    test = jsonl(tmp_path / "test.jsonl", renamed(sums(20, start=500), **names))
    assert rlvr("init", train).exit_code == 0
    recipe = load_recipe(tmp_path / "train.yaml")
    assert recipe.data.columns.renamed == {"question": "problem", "answer": "final_answer"}
    assert recipe.data.test == str(test)
    accepted(tmp_path / "train.yaml")


def test_shards_with_nested_fields_and_their_test_split_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "math"
    folder.mkdir()
    for split, rows in (("train", sums()), ("test", sums(20, start=500))):
        nested = [
            {"extra_info": {"question": row["question"]}, "reward_model": {"ground_truth": str(n)}}
            for n, row in enumerate(rows)
        ]
        table = pyarrow.Table.from_pylist(nested)
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    result = rlvr("init", folder)
    assert result.exit_code == 0, result.output
    recipe = load_recipe(tmp_path / "math.yaml")
    assert (recipe.data.train, recipe.data.test) == (f"{folder}/train*", f"{folder}/test*")
    assert recipe.data.columns.renamed == {
        "question": "extra_info.question",
        "answer": "reward_model.ground_truth",
    }
    accepted(tmp_path / "math.yaml")
    assert "not sure: how long the model's answers are" in result.output


def test_a_split_of_the_hub_and_its_model_are_named_with_their_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    # A fake of the one call that needs the network.
    def load_dataset(name: str, config: str | None, *, revision: str, split: str) -> Any:
        return sums(400) if split == "train" else sums(20, start=1000)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    source = "hub://owner/Sums.v2@abc?config=main"
    result = rlvr("init", source, "--model", "Qwen/Qwen2.5-0.5B@060db64", "-o", "mine.yaml")
    assert result.exit_code == 0, result.output
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.name, recipe.data.train, recipe.data.test) == ("sums", source, source)
    assert (recipe.model.name, recipe.model.revision) == ("Qwen/Qwen2.5-0.5B", "060db64")
    assert recipe.device_generation_batch_size == 64
    assert "whether the batch fits the memory of your GPU" in result.output


def test_rows_that_stand_twice_raise_what_is_allowed_and_are_told(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "rows.jsonl", sums() + sums(6))
    assert rlvr("init", data).exit_code == 0
    text = (tmp_path / "rows.yaml").read_text("utf-8")
    assert "max_quarantined_fraction: 0.15  # 9.1% of the first 66 rows" in text
    accepted(tmp_path / "rows.yaml")


def test_a_stop_that_the_rows_use_is_replaced(tmp_path: Path) -> None:
    rows = [row | {"question": f"Question: {row['question']}"} for row in sums()]
    data = jsonl(tmp_path / "rows.jsonl", rows)
    assert rlvr("init", data, "--model", "Qwen/Qwen2.5-0.5B@060db64").exit_code == 0
    recipe = load_recipe(tmp_path / "rows.yaml")
    assert recipe.prompt.style == "text"
    assert recipe.prompt.stop == "Problem:"
    assert recipe.prompt.question_template == "Problem: {question}\nSolution:"
    accepted(tmp_path / "rows.yaml")


def test_rows_that_are_chats_and_an_instruct_model_are_laid_out_as_chats(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": row["question"]}], "target": row["answer"]}
        for row in sums()
    ]
    data = jsonl(tmp_path / "rows.jsonl", rows)
    result = rlvr("init", data)
    assert result.exit_code == 0, result.output
    recipe = load_recipe(tmp_path / "rows.yaml")
    assert recipe.data.columns.renamed == {"answer": "target"}
    assert recipe.prompt.style == "chat"
    assert "style: chat  # the model has the chat template of an instruct model" in result.output
    accepted(tmp_path / "rows.yaml")


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (renamed(sums(), question="x", answer="y"), [], "no column holds the question among x, y"),
        (sums(5), [], "has 5 rows with a question and an answer"),
        ([], [], "holds no rows that can be read"),
        (sums(), ["--model", "Qwen/Qwen2.5-0.5B"], "write Qwen/Qwen2.5-0.5B@COMMIT"),
        (sums(), ["--model", "embedded:smollm3"], "is not an embedded model"),
        (
            [row | {"answer": "because " * 40} for row in sums()],
            [],
            "are for none of the verifiers",
        ),
    ],
)
def test_rows_that_make_no_recipe_leave_no_file(
    rows: list[dict[str, Any]], arguments: list[str], message: str, tmp_path: Path
) -> None:
    data = jsonl(tmp_path / "rows.jsonl", rows)
    result = rlvr("init", data, *arguments)
    assert result.exit_code in (2, 3)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == [data]


def test_a_recipe_that_exists_is_not_replaced(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "rows.jsonl", sums())
    (tmp_path / "rows.yaml").write_text("name: mine\n")
    result = rlvr("init", data)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert (tmp_path / "rows.yaml").read_text() == "name: mine\n"
