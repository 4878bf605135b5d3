"""Test the preparation: the splits, the quarantine and the errors of bad input."""

from __future__ import annotations

import errno
import gzip
import json
import os
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rlvr_trainer.data import (
    at_most,
    load_exemplars,
    load_manifest,
    load_rows,
    prepare,
    repeat_rows,
)
from rlvr_trainer.errors import ConfigError, DataError, PlatformError
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.tasks.chat_template import TemplateRefused
from rlvr_trainer.tasks.prompt import PromptLayout


def words(text: str) -> int:
    return len(text.split())


def row(number: int, **columns: Any) -> dict[str, Any]:
    return {"question": f"What is {number} + 1?", "answer": number + 1, **columns}


def run(
    data_dir: Path, *, task: str = "question-answer", seed: int = 42,
    context_length: int = 2048, max_completion_tokens: int = 256,
    count_tokens: Callable[[str], int] = words, prompt: dict[str, Any] | None = None,
    rewards: dict[str, Any] | None = None, evaluation: dict[str, Any] | None = None,
    template: Any = None, **data: Any,
) -> dict[str, Any]:  # fmt: skip
    """Prepare with two shots by default; the other arguments are the data section."""
    recipe = parse_recipe(
        {
            "name": "test",
            "task": task,
            "seed": seed,
            "model": {"name": "embedded:x", "context_length": context_length},
            "data": {"num_exemplars": 2, **data},
            "prompt": {"num_shots": 2, **(prompt or {})},
            "sampling": {"max_completion_tokens": max_completion_tokens},
            "evaluation": evaluation or {},
            **({"rewards": rewards} if rewards else {}),
        }
    )
    return prepare(recipe, data_dir, count_tokens=count_tokens, template=template)


def jsonl(path: Path, rows: Iterable[dict[str, Any] | str]) -> str:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return str(path)


def ids(data_dir: Path, split: Any) -> list[str]:
    return [row.id for row in load_rows(data_dir, split)]


def quarantined(data_dir: Path) -> list[tuple[str, str]]:
    lines = (data_dir / "quarantined.jsonl").read_text("utf-8").splitlines()
    return [(entry["location"], entry["reason"]) for entry in map(json.loads, lines)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hundred(tmp_path: Path) -> str:
    return jsonl(tmp_path / "hundred.jsonl", map(row, range(100)))


# --- splits


def test_gsm8k_is_split_by_the_seed_and_its_test_rows_are_all_kept(tmp_path: Path) -> None:
    manifest = run(tmp_path, task="gsm8k", num_exemplars=8, prompt={"num_shots": 8})
    counts = {"train": 6719, "validation": 746, "test": 1319, "exemplars": 8, "quarantined": 0}
    assert manifest["counts"] == counts
    assert ids(tmp_path, "test") == [f"test-{index}" for index in range(1319)]


def test_exemplars_validation_and_training_rows_are_disjoint(tmp_path: Path, hundred: str) -> None:
    manifest = run(tmp_path / "d", train=hundred, num_exemplars=4)
    parts = [ids(tmp_path / "d", split) for split in ("train", "validation", "test")]
    exemplars = [row.id for row in load_exemplars(tmp_path / "d")]
    together = [id for part in [*parts, exemplars] for id in part]
    assert len(together) == len(set(together)) == 100
    assert [len(part) for part in parts] == [77, 9, 10]
    assert manifest["exemplar_ids"] == exemplars


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_other_splits(
    tmp_path: Path, hundred: str
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / name, train=hundred, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for split in ("train", "validation", "test"):
        assert ids(tmp_path / "a", split) != ids(tmp_path / "c", split)
    assert load_exemplars(tmp_path / "a") != load_exemplars(tmp_path / "c")


def test_rows_are_kept_at_the_most(tmp_path: Path, hundred: str) -> None:
    test = jsonl(tmp_path / "test.jsonl", map(row, range(1000, 1050)))
    run(tmp_path / "d", train=hundred, test=test, num_train_rows=30, num_test_rows=7)
    assert len(ids(tmp_path / "d", "train") + ids(tmp_path / "d", "validation")) == 28
    assert len(ids(tmp_path / "d", "test")) == 7


def test_some_of_the_rows_are_a_random_choice_in_their_order(tmp_path: Path, hundred: str) -> None:
    run(tmp_path / "d", train=hundred, test_fraction=0.5)
    rows = load_rows(tmp_path / "d", "test")
    some = at_most(rows, 10, "seed")
    assert some == at_most(rows, 10, "seed") != at_most(rows, 10, "another")
    assert some == [row for row in rows if row in some] != rows[:10]
    assert at_most(rows, 0, "seed") == []
    assert at_most(rows, None, "seed") == at_most(rows, 1000, "seed") == rows


def test_a_validation_row_has_room_for_what_an_evaluation_may_answer(tmp_path: Path) -> None:
    rows = [row(n, question=f"What is {n} {'plus ' * (n % 2 * 30)}?") for n in range(100)]
    run(tmp_path / "d", train=jsonl(tmp_path / "rows.jsonl", rows), context_length=90,
        max_completion_tokens=30, evaluation={"max_completion_tokens": 60},
        validation_fraction=0.3, max_quarantined_fraction=1.0)  # fmt: skip
    lengths = {
        split: max(words(row.question) for row in load_rows(tmp_path / "d", split))
        for split in ("train", "validation", "test")
    }
    assert lengths["train"] > 30 > lengths["validation"] == lengths["test"]


def test_a_generated_task_makes_the_requested_number_of_rows(tmp_path: Path) -> None:
    manifest = run(tmp_path, task="arithmetic", num_train_rows=50, num_test_rows=20)
    assert manifest["read"] == {"train": 50, "test": 20}


def test_more_exemplars_never_change_the_first_ones(tmp_path: Path, hundred: str) -> None:
    run(tmp_path / "two", train=hundred, num_exemplars=2)
    run(tmp_path / "five", train=hundred, num_exemplars=5)
    assert load_exemplars(tmp_path / "five")[:2] == load_exemplars(tmp_path / "two")


def test_rows_survive_the_files_as_they_are(tmp_path: Path) -> None:
    rows = [row(i, topic={"name": "häufig\u2028{}"}, solution=f"{i}") for i in range(20)]
    run(tmp_path / "d", train=jsonl(tmp_path / "rows.jsonl", rows))
    loaded = load_rows(tmp_path / "d", "train")[0]
    index = int(loaded.id.removeprefix("train-"))
    assert (loaded.question, loaded.answer) == (f"What is {index} + 1?", str(index + 1))
    assert (loaded.solution, loaded.extra) == (str(index), {"topic": {"name": "häufig\u2028{}"}})


# --- a selection


def test_only_selected_rows_train(tmp_path: Path, hundred: str) -> None:
    run(tmp_path / "d", train=hundred, select=["train-12", "train-3"])
    assert ids(tmp_path / "d", "train") == ["train-12", "train-3"]
    assert "train-12" not in ids(tmp_path / "d", "validation") + ids(tmp_path / "d", "test")


def test_a_selected_exemplar_is_replaced_by_the_next_row(tmp_path: Path, hundred: str) -> None:
    test = jsonl(tmp_path / "test.jsonl", map(row, range(1000, 1010)))
    both: dict[str, Any] = {"train": hundred, "test": test}
    first, second, third = run(tmp_path / "a", num_exemplars=3, **both)["exemplar_ids"]
    manifest = run(tmp_path / "b", num_exemplars=2, select=[first], **both)
    assert manifest["exemplar_ids"] == [second, third]
    assert ids(tmp_path / "b", "train") == [first]


def test_one_row_fills_a_batch(tmp_path: Path) -> None:
    run(tmp_path, task="gsm8k", select=["train-1208"], repeat_to_batch=True)
    assert ids(tmp_path, "train") == ["train-1208"] * 2  # 16 completions are 2 groups of 8


def test_rows_are_repeated_in_turn(tmp_path: Path, hundred: str) -> None:
    run(tmp_path / "d", train=hundred)
    rows = load_rows(tmp_path / "d", "train")[:3]
    assert repeat_rows(rows, 7) == [*rows, *rows, rows[0]]
    assert repeat_rows(rows, 2) == rows


def test_an_unknown_row_is_named(tmp_path: Path, hundred: str) -> None:
    with pytest.raises(DataError, match=r"'train-100' is not a training row.*train-0 to train-99"):
        run(tmp_path / "d", train=hundred, select=["train-1", "train-100"])


def test_a_selected_row_that_is_unusable_says_why(tmp_path: Path) -> None:
    rows = jsonl(tmp_path / "rows.jsonl", [row(0), row(0), *map(row, range(1, 30))])
    with pytest.raises(DataError, match=r"'train-1' \(rows.jsonl:2\) is unusable: duplicate"):
        run(tmp_path / "d", train=rows, select=["train-1"], max_quarantined_fraction=0.5)


# --- quarantine


def test_unusable_rows_are_set_aside_with_their_place_and_reason(tmp_path: Path) -> None:
    train = jsonl(
        tmp_path / "train.jsonl",
        [
            *map(row, range(20)),
            '{"question": "cut off',
            "[1, 2]",
            row(7),
            row(0) | {"question": "  "},
            row(50) | {"answer": "many"},
            {"question": "no answer"},
            "",
            row(1000),
            row(60) | {"question": "long " * 2000},
        ],
    )
    test = jsonl(tmp_path / "test.jsonl", [*map(row, range(1000, 1010)), row(1003)])
    manifest = run(tmp_path / "d", train=train, test=test, max_quarantined_fraction=0.5)
    assert quarantined(tmp_path / "d") == [
        ("train.jsonl:21", "malformed"),
        ("train.jsonl:22", "malformed"),
        ("train.jsonl:24", "empty"),
        ("train.jsonl:25", "answer-not-a-number"),
        ("train.jsonl:26", "malformed"),
        ("train.jsonl:23", "duplicate"),
        ("test.jsonl:11", "duplicate"),
        ("train.jsonl:28", "also-in-test"),
        ("train.jsonl:29", "over-long"),
    ]
    assert manifest["quarantined"] == {
        "malformed": 3, "duplicate": 2, "also-in-test": 1, "empty": 1, "answer-not-a-number": 1,
        "over-long": 1,
    }  # fmt: skip
    assert len(ids(tmp_path / "d", "test")) == 10
    for line in (tmp_path / "d" / "quarantined.jsonl").read_text("utf-8").splitlines():
        assert len(json.loads(line)["excerpt"]) <= 200


@pytest.mark.parametrize(
    "same",
    [
        "Combien co\u00fbte le the\u0301 ?",
        "Combien cou\u0302te le th\u00e9 ?",
        "COMBIEN CO\u00dbTE\u00a0le TH\u00c9 ?",
        "Combien\u200b co\u00ad\u00fbte le\nth\u00e9 ?\ufeff",
    ],
)
def test_a_question_is_the_same_however_it_is_encoded(tmp_path: Path, same: str) -> None:
    asked = {"question": "Combien co\u00fbte le th\u00e9 ?", "answer": 3}
    train = jsonl(tmp_path / "train.jsonl", [*map(row, range(50)), {"question": same, "answer": 3}])
    test = jsonl(tmp_path / "test.jsonl", [asked, *map(row, range(1000, 1050))])
    run(tmp_path / "d", train=train, test=test, max_quarantined_fraction=0.1)
    assert quarantined(tmp_path / "d") == [("train.jsonl:51", "also-in-test")]


def test_questions_that_only_look_alike_are_two(tmp_path: Path) -> None:
    rows = [{"question": "What is x\u00b2?", "answer": 4}, {"question": "What is x2?", "answer": 4}]
    train = jsonl(tmp_path / "train.jsonl", [*map(row, range(50)), *rows])
    assert run(tmp_path / "d", train=train)["counts"]["quarantined"] == 0


def test_broken_json_in_row_5000_is_found_by_its_line(tmp_path: Path) -> None:
    rows = [*map(row, range(6000))]
    train = jsonl(tmp_path / "train.jsonl", [*rows[:4999], '{"question": 1,', *rows[5000:]])
    manifest = run(tmp_path / "under", train=train)
    assert manifest["quarantined"] == {"malformed": 1}
    assert quarantined(tmp_path / "under") == [("train.jsonl:5000", "malformed")]
    with pytest.raises(DataError, match=r"1 of 6,000 rows .* unusable(.|\n)*train\.jsonl:5000"):
        run(tmp_path / "over", train=train, max_quarantined_fraction=0)
    assert not (tmp_path / "over").exists()


def test_too_many_unusable_rows_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    bad = [row(i) | {"answer": "many"} for i in range(90, 100)]
    train = jsonl(tmp_path / "train.jsonl", [*map(row, range(90)), *bad])
    with pytest.raises(DataError) as caught:
        run(tmp_path / "d", train=train)
    message = str(caught.value)
    assert "10 of 100 rows" in message
    assert "answer-not-a-number 10" in message
    assert "train.jsonl:91" in message
    assert "max_quarantined_fraction" in message
    assert message.count("train.jsonl:") == 5


@pytest.mark.parametrize(
    "line", [b"\xff\xfe{}", b"[" * 100_000, b'{"question": "?", "answer": ' + b"9" * 5000 + b"}"]
)
def test_a_line_that_no_parser_survives_costs_only_itself(tmp_path: Path, line: bytes) -> None:
    train = tmp_path / "train.jsonl"
    jsonl(train, map(row, range(200)))
    train.write_bytes(train.read_bytes() + line + b"\n")
    run(tmp_path / "d", train=str(train))
    assert quarantined(tmp_path / "d") == [("train.jsonl:201", "malformed")]


def test_a_row_that_just_fits_stays_and_one_token_more_is_too_many(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [*map(row, range(200)), row(200) | {
        "question": "one two three four five six seven eight nine"}])  # fmt: skip
    # header 2 x 11 words, "Question:", nine words, "Solution:"
    exact: dict[str, Any] = {"train": train, "max_completion_tokens": 10, "num_test_rows": 10}
    shown = run(tmp_path / "d", context_length=400, **exact)["header_tokens"]["2"]
    limit = shown + 11 + 10
    assert run(tmp_path / "fits", context_length=limit, **exact)["counts"]["quarantined"] == 0
    tight = run(tmp_path / "tight", context_length=limit - 1, **exact)
    assert tight["quarantined"] == {"over-long": 1}


def test_test_rows_must_fit_the_most_shots_that_are_evaluated(tmp_path: Path, hundred: str) -> None:
    arguments: dict[str, Any] = {"train": hundred, "num_exemplars": 8, "context_length": 150}
    arguments["max_completion_tokens"] = 50
    assert run(tmp_path / "two", **arguments)["counts"]["quarantined"] == 0
    with pytest.raises(ConfigError, match=r"the header of 8 shots has \d+ tokens"):
        run(tmp_path / "eight", evaluation={"shots": [0, 8]}, **arguments)


def test_a_test_row_that_fits_only_fewer_shots_is_set_aside(tmp_path: Path) -> None:
    long = {"question": "long " * 60 + "?", "answer": 1}
    test = jsonl(tmp_path / "test.jsonl", [*map(row, range(1000, 1200)), long])
    train = jsonl(tmp_path / "train.jsonl", map(row, range(100)))
    arguments: dict[str, Any] = {"train": train, "test": test, "num_exemplars": 8}
    arguments |= {"context_length": 220, "max_completion_tokens": 100}
    assert run(tmp_path / "two", **arguments)["counts"]["quarantined"] == 0
    run(tmp_path / "eight", evaluation={"shots": [0, 8]}, **arguments)
    assert quarantined(tmp_path / "eight") == [("test.jsonl:201", "over-long")]


# --- sources


def test_gzip_and_parquet_give_the_same_rows_as_jsonl(tmp_path: Path, hundred: str) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(Path(hundred).read_bytes()))
    table = pyarrow.Table.from_pylist([row(i) for i in range(100)])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    run(tmp_path / "plain", train=hundred)
    expected = load_rows(tmp_path / "plain", "train")
    for name in ("rows.jsonl.gz", "rows.parquet"):
        run(tmp_path / "d", train=str(tmp_path / name))
        assert load_rows(tmp_path / "d", "train") == expected


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "ROWS.JSON", "rows.jsonl", "rows.json.gz"])
def test_a_json_array_is_rows(tmp_path: Path, hundred: str, name: str, indent: int | None) -> None:
    content = b"\xef\xbb\xbf\n" + json.dumps([row(i) for i in range(100)], indent=indent).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    run(tmp_path / "plain", train=hundred)
    run(tmp_path / "d", train=str(tmp_path / name))
    assert load_rows(tmp_path / "d", "train") == load_rows(tmp_path / "plain", "train")


def test_an_item_of_a_json_array_that_is_not_a_row_is_named_by_its_index(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([*map(row, range(150)), 7]))
    run(tmp_path / "d", train=str(tmp_path / "rows.json"))
    assert quarantined(tmp_path / "d") == [("rows.json[150]", "malformed")]


def test_a_first_line_that_is_an_array_costs_only_itself(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "rows.jsonl", ["[1, 2]", *map(row, range(150))])
    run(tmp_path / "d", train=train)
    assert quarantined(tmp_path / "d") == [("rows.jsonl:1", "malformed")]


@pytest.mark.parametrize(
    "name", ["ROWS.JSONL", "Rows.NdJson", "rows.JSONL.GZ", "rows.ndjson.gz", "ROWS.PARQUET"]
)
def test_capitals_in_a_file_name_change_nothing(tmp_path: Path, hundred: str, name: str) -> None:
    source = tmp_path / name
    if name.lower().endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*map(row, range(100))]), source)
    else:
        content = Path(hundred).read_bytes()
        source.write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    run(tmp_path / "plain", train=hundred)
    run(tmp_path / "d", train=str(source))
    assert load_rows(tmp_path / "d", "train") == load_rows(tmp_path / "plain", "train")


def test_parquet_columns_that_json_does_not_know_are_kept_as_text(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist([row(i, day=date(2024, 2, 29)) for i in range(30)])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    run(tmp_path / "d", train=str(tmp_path / "rows.parquet"))
    assert load_rows(tmp_path / "d", "train")[0].extra == {"day": "2024-02-29"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "cannot be read (No such file"),
        ("empty.jsonl", b"", "holds no rows"),
        ("blank.jsonl", b"\n \n", "holds no rows"),
        ("broken.jsonl.gz", b"no gzip", "cannot be read after line 0"),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"question": "?"}\n' * 99, mtime=0)[:-9],
            "cannot be read after",
        ),
        ("broken.parquet", b"no parquet", "is not a readable Parquet file"),
        (
            "cut.json",
            b'[\n{"question": "?", "answer": 1},\n{"que',
            "begins as a JSON array but is not",
        ),
        ("deep.json", b"[" * 100_000, "begins as a JSON array but is not"),
        ("rows.json", b'{\n"question": "?",\n"answer": 1\n}\n', "write one object a line"),
        ("wide.jsonl", '{"question": "?"}'.encode("utf-16"), "is UTF-16; write it as UTF-8"),
    ],
)
def test_a_source_that_cannot_be_read_is_a_data_error(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        run(tmp_path / "d", train=str(tmp_path / name))
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_an_empty_folder_and_an_unknown_format_are_not_sources(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ConfigError, match="holds no file of rows"):
        run(tmp_path / "d", train=str(tmp_path / "folder.jsonl"))
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(ConfigError, match="has an unknown format"):
        run(tmp_path / "d", train=str(tmp_path / "rows.xlsx"))


def test_an_empty_split_is_a_data_error(tmp_path: Path, hundred: str) -> None:
    with pytest.raises(DataError, match="no row is left for the test split"):
        run(tmp_path / "d", train=hundred, test_fraction=0)
    with pytest.raises(DataError, match="no row is left for the train split"):
        run(tmp_path / "d", train=hundred, validation_fraction=1)
    few = jsonl(tmp_path / "few.jsonl", map(row, range(2)))
    with pytest.raises(DataError, match=r"num_exemplars = 8, but only 2"):
        run(tmp_path / "d", train=few, num_exemplars=8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub://owner/name", "does not name a revision"),
        ("hub://owner/name@main?subset=x", "is not hub://"),
        ("hub://", "is not hub://"),
    ],
)
def test_a_hub_source_is_pinned(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "d", train=source)


def test_a_hub_source_is_loaded_by_name_revision_config_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    # A fake of the one call that needs the network.
    def load_dataset(name: str, config: str | None, *, revision: str, split: str) -> Any:
        assert (name, config, revision, split) == ("owner/name", "main", "abc", "dev")
        return [row(index) for index in range(30)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    manifest = run(tmp_path / "d", train="hub://owner/name@abc?config=main&split=dev")
    assert manifest["read"] == {"train": 30}


def test_without_the_hub_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(PlatformError, match=r"hub://owner/name@abc cannot.*offline.*local copy"):
        run(tmp_path / "d", train="hub://owner/name@abc")


# --- templates


def test_a_header_beyond_the_context_is_a_configuration_error(tmp_path: Path, hundred: str) -> None:
    with pytest.raises(ConfigError, match=r"header of 2 shots has 26 tokens.*= 40"):
        run(tmp_path / "d", train=hundred, context_length=40, max_completion_tokens=20)


def test_a_template_that_is_never_rewarded_is_a_configuration_error(
    tmp_path: Path, hundred: str
) -> None:
    with pytest.raises(ConfigError, match="make them agree"):
        run(tmp_path / "d", train=hundred, prompt={"solution_template": " Answer: {answer}"})
    cut = {"solution_template": "\nA: {solution}\n#### The final answer is {answer}", "stop": "A:"}
    with pytest.raises(ConfigError, match=r"a line begins with prompt\.stop 'A:'"):
        run(tmp_path / "d", train=hundred, prompt=cut)
    own = {"solution_template": " Answer: {answer}", "answer_marker": "Answer:"}
    run(tmp_path / "agrees", train=hundred, prompt=own)
    mine = {"mine": {"function": "my.module:reward"}}
    run(tmp_path / "own", train=hundred, rewards=mine, prompt={"solution_template": "{answer}"})


CAPITALS = """
from rlvr_trainer.tasks import Row, Task

class Capitals(Task):
    def parse(self, raw, id):
        return Row(id, raw["question"], raw["answer"])

def same(completion, row):
    return float(row["answer"] in completion)
"""


def test_an_answer_that_nothing_can_judge_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "capitals.py").write_text(CAPITALS)
    rows = [{"question": f"The capital of {n}?", "answer": "Paris"} for n in range(40)]
    options: dict[str, Any] = {
        "task": f"{tmp_path}/capitals.py:Capitals",
        "train": jsonl(tmp_path / "rows.jsonl", rows),
        "rewards": {"same": {"function": f"{tmp_path}/capitals.py:same"}},
    }
    with pytest.raises(DataError, match=r"answer-not-a-number.*evaluation\.correct_by"):
        run(tmp_path / "d", **options)
    run(tmp_path / "judged", **options, evaluation={"correct_by": "same"})
    assert len(ids(tmp_path / "judged", "test")) == 4


def test_a_reward_that_fails_on_gold_completions_is_a_configuration_error(
    tmp_path: Path, hundred: str
) -> None:
    (tmp_path / "mine.py").write_text("def f(completion, row): return row['topic']")
    mine = {"mine": {"function": f"{tmp_path}/mine.py:f"}}
    with pytest.raises(ConfigError, match=r"mine\.py:f raised KeyError: 'topic', on row train-"):
        run(tmp_path / "d", train=hundred, rewards=mine)
    assert not (tmp_path / "d").exists()


def test_a_question_may_have_an_answer_in_words_where_a_reward_of_the_users_judges(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(CAPITALS)
    rows = [
        {"question": f"The day after {n} March?", "answer": f"{n + 1} March"} for n in range(40)
    ]
    options: dict[str, Any] = {
        "task": "question-answer",
        "train": jsonl(tmp_path / "rows.jsonl", rows),
        "evaluation": {"correct_by": "same"},
    }
    same = {"same": {"function": f"{tmp_path}/mine.py:same"}}

    run(tmp_path / "d", **options, rewards=same)
    assert all(row.answer.endswith(" March") for row in load_rows(tmp_path / "d", "test"))

    options["train"] = jsonl(tmp_path / "words.jsonl", [{**row, "answer": "A"} for row in rows])
    with pytest.raises(ConfigError, match=r"rewards\.format reads a number, .* is 'A'; leave"):
        run(tmp_path / "format", **options, rewards={**same, "format": {}})
    with pytest.raises(DataError, match=r"answer-not-a-number .*rewards\.correctness\.function"):
        run(tmp_path / "correctness", **options, rewards={**same, "correctness": {}})


CITIES = ["Rome", "Paris", "Oslo", "New York"]
PLACES: list[dict[str, Any]] = [
    {},
    {"answer_place": "boxed"},
    {"answer_place": "tag"},
    {"answer_place": "text", "thinking_end": "</think>"},
]


@pytest.mark.parametrize("prompt", PLACES)
@pytest.mark.parametrize(
    ("verifier", "columns"),
    [
        ({"verifier": "text"}, {"answer": "Paris"}),
        ({"verifier": "text"}, {"answer": ["Paris", "the City of Light"]}),
        ({"verifier": "choice"}, {"answer": "B", "choices": CITIES}),
        ({"verifier": "choice", "index_from": 0}, {"answer": 1, "choices": CITIES}),
        ({"verifier": "json", "fields": ["age"]}, {"answer": {"name": "Ann", "age": 7}}),
        ({"verifier": "regex", "pattern": "[0-9-]+"}, {"answer": "2026-11-28"}),
        ({"verifier": "math"}, {"answer": "\\frac{1}{2}"}),
    ],
    ids=["text", "several texts", "choice", "index", "json", "regex", "math"],
)
def test_answers_of_any_kind_need_no_code(
    tmp_path: Path, verifier: dict[str, Any], columns: dict[str, Any], prompt: dict[str, Any]
) -> None:
    rows = [{"question": f"Which city is the capital of {n}?", **columns} for n in range(40)]
    manifest = run(
        tmp_path / "d",
        task="question-answer",
        train=jsonl(tmp_path / "rows.jsonl", rows),
        rewards={"correctness": verifier},
        prompt=prompt,
    )
    if verifier.get("index_from") is None:
        assert manifest["quarantined"] == {}


def test_a_gold_answer_that_its_verifier_cannot_read_is_set_aside(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": f"{n}?", "answer": "B", "choices": CITIES} for n in range(300)
    ]
    rows[7]["answer"] = "Berlin"
    options: dict[str, Any] = {
        "task": "question-answer",
        "train": jsonl(tmp_path / "rows.jsonl", rows),
    }
    choice = {"correctness": {"verifier": "choice"}}
    assert run(tmp_path / "d", **options, rewards=choice)["quarantined"] == {"answer-not-judged": 1}
    (line,) = (tmp_path / "d" / "quarantined.jsonl").read_text().splitlines()
    assert "rewards.correctness cannot judge the answer 'Berlin', which is none of" in line
    with pytest.raises(DataError, match=r"answer-not-a-number.*set rewards\.correctness\.verifier"):
        run(tmp_path / "numbers", **options, rewards={"correctness": {}})


def test_a_form_that_the_template_does_not_have_is_a_configuration_error(
    tmp_path: Path, hundred: str
) -> None:
    tags = {"form": {"verifier": "tags"}, "correctness": {}}
    with pytest.raises(ConfigError, match=r"does not earn rewards\.form \(verifier tags\)"):
        run(tmp_path / "d", train=hundred, rewards=tags)
    template = " <think>{solution}.</think>\n<answer>{answer}</answer>"
    prompt = {"solution_template": template, "answer_place": "tag"}
    short = {"verifier": "length", "free_tokens": 1, "max_tokens": 2}
    run(tmp_path / "e", train=hundred, rewards={**tags, "short": short}, prompt=prompt)


@pytest.mark.parametrize("gives", ["None", "Row(id, 'q', 5)"])
def test_a_task_without_rows_is_an_error(gives: str, tmp_path: Path, hundred: str) -> None:
    code = CAPITALS.replace('Row(id, raw["question"], raw["answer"])', gives)
    (tmp_path / "wrong.py").write_text(code)
    with pytest.raises(DataError, match=r"malformed \((TypeError|AttributeError)"):
        run(tmp_path / "d", task=f"{tmp_path}/wrong.py:Capitals", train=hundred)


def test_a_row_whose_worked_text_is_never_rewarded_is_not_an_exemplar(tmp_path: Path) -> None:
    spoilt = [row(i, solution="So.\nQuestion: what?") for i in range(30)]
    train = jsonl(tmp_path / "train.jsonl", [*spoilt, *map(row, range(30, 60))])
    run(tmp_path / "d", train=train, num_exemplars=8)
    assert all("Question:" not in row.solution for row in load_exemplars(tmp_path / "d"))


def test_a_template_with_an_unknown_column_names_those_there_are(
    tmp_path: Path, hundred: str
) -> None:
    with pytest.raises(ConfigError, match=r"'topic'.*its columns are answer, id, question"):
        run(tmp_path / "d", train=hundred, prompt={"question_template": "{topic} {question}"})


def test_header_tokens_are_those_of_the_header_that_prompts_open_with(
    tmp_path: Path, hundred: str
) -> None:
    manifest = run(tmp_path / "d", train=hundred, evaluation={"shots": [0, 1]})
    layout = PromptLayout(parse_recipe({"name": "x", "model": {"name": "embedded:x"}}).prompt,
                          load_exemplars(tmp_path / "d"))  # fmt: skip
    expected = {str(shots): words(layout.header(shots)) for shots in (0, 1, 2)}
    assert manifest["header_tokens"] == expected


# --- files


def test_files_that_the_manifest_does_not_describe_are_not_loaded(
    tmp_path: Path, hundred: str
) -> None:
    with pytest.raises(DataError, match="does not hold prepared data"):
        load_rows(tmp_path / "d", "train")
    run(tmp_path / "d", train=hundred)
    train = tmp_path / "d" / "train.jsonl"
    train.write_bytes(train.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train\.jsonl is not the file that manifest\.json"):
        load_rows(tmp_path / "d", "train")
    assert load_rows(tmp_path / "d", "test")
    (tmp_path / "d" / "test.jsonl").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_rows(tmp_path / "d", "test")
    (tmp_path / "d" / "manifest.json").write_text("{", "utf-8")
    with pytest.raises(DataError, match="prepare the data again"):
        load_exemplars(tmp_path / "d")


def test_only_the_described_files_are_left(tmp_path: Path, hundred: str) -> None:
    manifest = run(tmp_path / "d", train=hundred)
    assert set(contents(tmp_path / "d")) == {*manifest["files"], "manifest.json"}
    assert load_manifest(tmp_path / "d") == json.loads(json.dumps(manifest))


@pytest.mark.parametrize("fails_at", range(7))
def test_a_write_that_breaks_off_is_never_taken_for_whole(
    tmp_path: Path, hundred: str, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Simulate a disk that fills up at the n-th move, over data of an earlier preparation."""
    run(tmp_path / "d", train=hundred, seed=1)
    moves = 0
    replace = os.replace

    def fill_up(source: Any, target: Any) -> None:
        nonlocal moves
        moves += 1
        if moves > fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fill_up)
    if fails_at == 6:
        run(tmp_path / "d", train=hundred, seed=2)
        assert load_manifest(tmp_path / "d")["seed"] == 2
        return
    with pytest.raises(PlatformError, match="No space left"):
        run(tmp_path / "d", train=hundred, seed=2)
    with pytest.raises(DataError, match="does not hold prepared data"):
        load_rows(tmp_path / "d", "train")
    assert not list((tmp_path / "d").glob(".writing-*"))


def test_a_full_disk_leaves_the_earlier_data_and_names_the_folder(
    tmp_path: Path, hundred: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "d", train=hundred, seed=1)
    before = contents(tmp_path / "d")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlatformError) as caught:
        run(tmp_path / "d", train=hundred, seed=2)
    assert str(tmp_path / "d") in str(caught.value)
    assert contents(tmp_path / "d") == before


def test_a_folder_that_cannot_be_written_is_a_configuration_error(
    tmp_path: Path, hundred: str
) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        run(Path(hundred) / "d", train=hundred)


# --- chats


CHAT = {"style": "chat", "num_shots": 0}


def chat_row(number: int, *before: tuple[str, str]) -> dict[str, Any]:
    asked = [*before, ("user", f"What is {number} + 1?")]
    messages = [{"role": role, "content": content} for role, content in asked]
    return {"messages": messages, "answer": number + 1}


def test_the_messages_of_a_row_are_kept(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", [chat_row(n, ("system", "Add.")) for n in range(20)])
    run(tmp_path / "data", prompt=CHAT, train=train)
    [first, *_] = load_rows(tmp_path / "data", "train")
    assert first.messages[0] == {"role": "system", "content": "Add."}
    assert first.messages[-1]["content"] == first.question


def test_a_chat_is_quarantined_under_text_with_what_to_do(tmp_path: Path) -> None:
    rows = [*map(row, range(20)), chat_row(30)]
    train = jsonl(tmp_path / "train.jsonl", rows)
    run(tmp_path / "data", train=train, max_quarantined_fraction=0.1)
    [line] = (tmp_path / "data/quarantined.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "chat"
    with pytest.raises(DataError, match=r"the row is a chat.*set prompt.style to chat"):
        run(tmp_path / "other", train=train, max_quarantined_fraction=0)


def test_the_same_question_after_other_turns_is_no_duplicate(tmp_path: Path) -> None:
    turns = [("user", "Hello"), ("assistant", "Yes?")]
    rows = [*map(chat_row, range(20)), chat_row(1, *turns)]
    rows.append(chat_row(1, ("system", "Add."), *turns))  # a duplicate of the one before
    train = jsonl(tmp_path / "train.jsonl", rows)
    manifest = run(tmp_path / "data", prompt=CHAT, train=train, max_quarantined_fraction=0.1)
    assert manifest["quarantined"] == {"duplicate": 1}


def test_an_example_is_one_question(tmp_path: Path) -> None:
    turns = [("user", "Hello"), ("assistant", "Yes?")]
    rows = [*(chat_row(n, *turns) for n in range(20)), *map(chat_row, range(100, 105))]
    train = jsonl(tmp_path / "train.jsonl", rows)
    run(tmp_path / "data", prompt={**CHAT, "num_shots": 2}, train=train)
    assert all(len(exemplar.messages) == 1 for exemplar in load_exemplars(tmp_path / "data"))


class Alternating:
    """A fake template: refuses two messages of the user in a row."""

    def prompt(self, messages: Any) -> str:
        roles = [message["role"] for message in messages]
        if roles.count("user") == len(roles) > 1:
            raise TemplateRefused("it says: roles must alternate")
        return "".join(f"[{message['content']}] " for message in messages)


def test_a_chat_that_the_template_refuses_is_quarantined(tmp_path: Path) -> None:
    rows = [*map(chat_row, range(20)), chat_row(30, ("user", "Hello"))]
    train = jsonl(tmp_path / "train.jsonl", rows)
    options: Any = {"prompt": CHAT, "train": train, "num_exemplars": 0, "template": Alternating()}
    manifest = run(tmp_path / "data", **options, max_quarantined_fraction=0.1)
    assert manifest["quarantined"] == {"refused-by-template": 1}
    with pytest.raises(DataError, match="roles must alternate"):
        run(tmp_path / "other", **options, max_quarantined_fraction=0)


def test_a_chat_is_as_long_as_its_rendered_prompt(tmp_path: Path) -> None:
    """Count its own system message where it has one, in place of the recipe's."""
    own = chat_row(30, ("system", "one two three four"))  # and not "Please add." too
    longer = chat_row(31, ("system", "one two three four five"))
    train = jsonl(tmp_path / "train.jsonl", [*map(chat_row, range(20)), own, longer])
    manifest = run(
        tmp_path / "data",
        prompt={**CHAT, "system": "Please add."},
        train=train,
        num_exemplars=0,
        max_quarantined_fraction=0.1,
        template=Alternating(),
        context_length=256 + words("[one two three four] [What is 30 + 1?]"),
    )
    assert manifest["quarantined"] == {"over-long": 1}
    assert manifest["max_prompt_tokens"] == 9
