"""Test rows as people have them: their files, folders and columns."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rlvr_trainer.data import load_rows, prepare
from rlvr_trainer.data.identity import files_identity
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe.named_files import file_digests
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.storage import open_storage
from rlvr_trainer.tasks import Row

NUM_ROWS = 12


def recipe(train: Path | str, columns: dict[str, str] | None = None, **data: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "test",
            "task": "question-answer",
            "model": {"name": "embedded:x"},
            "data": {
                "train": str(train),
                "columns": columns or {},
                "num_exemplars": 0,
                "validation_fraction": 0,
                "test_fraction": 0.1,
                **data,
            },
            "prompt": {"num_shots": 0},
        }
    )


def prepared(recipe: Recipe, folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Return the manifest, and the rows of all splits in the order of their source."""
    manifest = prepare(recipe, folder / "data", count_tokens=len)
    rows = load_rows(folder / "data", "train") + load_rows(folder / "data", "test")
    return dict(manifest), sorted(rows, key=lambda row: int(row.id.rpartition("-")[2]))


def question(number: int) -> str:
    return f'What is {number} + 1, said "Tom",\nand why?'


def json_lines(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    return "".join(json.dumps(row) + end for row in rows).encode()


def csv_text(rows: list[dict[str, Any]], delimiter: str = ",", end: str = "\r\n") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def gsm8k(path: Path) -> Path:
    rows = [{"question": question(n), "answer": f"{n}+1={n + 1}\n#### {n + 1}"} for n in range(12)]
    return write(path / "gsm8k.jsonl", json_lines(rows))


def math_array(path: Path) -> Path:
    rows = [{"problem": question(n), "level": "1", "solution": f"{n + 1}"} for n in range(12)]
    return write(path / "math.json", json.dumps(rows, indent=2).encode())


def spreadsheet(path: Path) -> Path:
    rows = [{"Question": question(n), "Answer": f"${n + 1}"} for n in range(12)]
    return write(path / "sheet.csv", b"\xef\xbb\xbf" + csv_text(rows))


def european_spreadsheet(path: Path) -> Path:
    rows = [{"Frage": question(n), "Antwort": n + 1} for n in range(12)]
    return write(path / "sheet.csv", csv_text(rows, ";"))


def tabs(path: Path) -> Path:
    rows = [{"id": n, "question": question(n), "answer": n + 1} for n in range(12)]
    return write(path / "rows.tsv", csv_text(rows, "\t", "\n"))


def zipped_csv(path: Path) -> Path:
    rows = [{"question": question(n), "answer": n + 1} for n in range(12)]
    return write(path / "rows.csv.gz", gzip.compress(csv_text(rows, end="\n")))


def verl(path: Path) -> Path:
    rows = [
        {
            "data_source": "gsm8k",
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
            "extra_info": {"index": n, "question": question(n), "answer": "…"},
        }
        for n in range(12)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path / "train.parquet")
    return path / "train.parquet"


def squad(path: Path) -> Path:
    rows = [{"question": question(n), "answers": {"text": [str(n + 1), "?"]}} for n in range(12)]
    return write(path / "squad.ndjson", json_lines(rows))


def windows(path: Path) -> Path:
    rows = [{"question": question(n), "answer": n + 1} for n in range(12)]
    return write(path / "rows.jsonl", b"\xef\xbb\xbf" + json_lines(rows, "\r\n\r\n"))


def shards(path: Path) -> Path:
    folder = path / "train"
    folder.mkdir()
    for shard in range(3):
        rows = [{"question": question(n), "answer": n + 1} for n in range(4 * shard, 4 * shard + 4)]
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, folder / f"train-0000{shard}-of-00003.parquet")
    write(folder / "README.md", b"# About the rows")
    write(folder / ".cache.parquet", b"not rows")
    return folder


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


AS_PEOPLE_HAVE_THEM: list[tuple[Callable[[Path], Path], dict[str, str]]] = [
    (gsm8k, {}),
    (math_array, {"question": "problem", "answer": "solution"}),
    (spreadsheet, {"question": "Question", "answer": "Answer"}),
    (european_spreadsheet, {"question": "Frage", "answer": "Antwort"}),
    (tabs, {}),
    (zipped_csv, {}),
    (verl, {"question": "extra_info.question", "answer": "reward_model.ground_truth"}),
    (squad, {"answer": "answers.text.0"}),
    (windows, {}),
    (shards, {}),
]


@pytest.mark.parametrize(
    ("make", "columns"), AS_PEOPLE_HAVE_THEM, ids=lambda made: getattr(made, "__name__", "")
)
def test_a_file_as_people_have_it_gives_its_rows(
    make: Callable[[Path], Path], columns: dict[str, str], tmp_path: Path
) -> None:
    manifest, rows = prepared(recipe(make(tmp_path), columns), tmp_path)
    assert manifest["read"] == {"train": NUM_ROWS}
    assert [(row.question, row.answer) for row in rows] == [
        (question(n), str(n + 1)) for n in range(NUM_ROWS)
    ]


# --- columns


def test_other_columns_stay_and_a_renamed_one_is_gone(tmp_path: Path) -> None:
    _, rows = prepared(
        recipe(math_array(tmp_path), {"question": "problem", "answer": "solution"}), tmp_path
    )
    assert rows[0].extra == {"level": "1"}


def test_a_name_with_a_dot_is_a_column_before_it_is_a_field(tmp_path: Path) -> None:
    rows = [{"question": question(n), "a.b": n, "a": {"b": 0}} for n in range(12)]
    source = write(tmp_path / "rows.jsonl", json_lines(rows))
    _, read = prepared(recipe(source, {"answer": "a.b"}), tmp_path)
    assert [row.answer for row in read] == [str(n) for n in range(12)]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(recipe(verl(tmp_path), {"answer": "reward_model.groundtruth"}), tmp_path)
    assert (
        "no column 'reward_model.groundtruth', which data.columns.answer names "
        "(did you mean 'reward_model.ground_truth'?), among data_source, reward_model, extra_info"
    ) in str(caught.value)


def test_only_the_columns_that_a_task_reads_can_be_renamed() -> None:
    with pytest.raises(ConfigError, match=r"columns\.anwser: unknown field.*'answer'"):
        recipe("rows.jsonl", {"anwser": "a"})
    with pytest.raises(ConfigError, match=r"a task's own rows have the names"):
        recipe("", {"answer": "a"})


# --- what is read over, and what is kept apart


def test_a_byte_order_mark_crlf_and_blank_lines_are_counted(tmp_path: Path) -> None:
    manifest, _ = prepared(recipe(windows(tmp_path)), tmp_path)
    assert manifest["oddities"] == {
        "train": {"byte-order marks": 1, "CRLF lines": 24, "blank lines": 12}
    }
    assert prepared(recipe(gsm8k(tmp_path)), tmp_path)[0]["oddities"] == {}


def test_blank_lines_of_csv_are_counted_and_rows_are_named_by_their_first_line(
    tmp_path: Path,
) -> None:
    text = '\nquestion,answer\n"What is\n\n1 + 1?",2\n\n , \n"What is 2 + 2?",4,5\n'
    lines = text + "".join(f"{n}?,{n}\n" for n in range(30))
    source = write(tmp_path / "rows.csv", lines.encode())
    manifest, rows = prepared(recipe(source, max_quarantined_fraction=0.5), tmp_path)
    assert manifest["oddities"] == {"train": {"blank lines": 3}}
    assert rows[0].question == "What is\n\n1 + 1?"
    quarantined = (tmp_path / "data" / "quarantined.jsonl").read_text("utf-8")
    assert '"rows.csv:8"' in quarantined
    assert "has 3 fields, and the header has 2" in quarantined


def test_a_question_that_is_also_in_the_test_rows_is_kept_apart_from_training(
    tmp_path: Path,
) -> None:
    rows = [{"question": question(n), "answer": n + 1} for n in range(30)]
    again = {"question": question(3), "answer": 99}
    train = write(tmp_path / "train.jsonl", json_lines([*rows, again]))
    test = write(tmp_path / "test.jsonl", json_lines([rows[5], {"question": "?", "answer": 1}]))
    manifest, _ = prepared(recipe(train, test=str(test), max_quarantined_fraction=0.5), tmp_path)
    assert manifest["quarantined"] == {"duplicate": 1, "also-in-test": 1}
    quarantined = (tmp_path / "data" / "quarantined.jsonl").read_text("utf-8")
    assert "the question of train.jsonl:4, where its answer is '4'" in quarantined


# --- files that are not what they seem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b'question,answer\n"What?,4\n5?,5\n', "rows.csv:2 begins a row"),
        ("rows.csv", "question,answer\nCaf\xe9?,4\n".encode("latin-1"), "rows.csv:2 is not UTF-8"),
        ("rows.csv", "question,answer\n".encode("utf-16"), "UTF-16"),
        ("rows.csv", b"answer,answer\n4,4\n", "'answer' is there twice"),
        ("rows.csv", b"question,answer\n", "holds no rows"),
        ("rows.csv.gz", b"question,answer\n", "copy it again"),
        ("rows.tsv", b"question\tanswer\n?\t" + b"x" * 200_000 + b"\n", "not a number"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        prepared(recipe(write(tmp_path / name, content)), tmp_path)
    assert message in str(caught.value)


# --- folders, patterns, the hub


def test_a_pattern_names_files_and_their_content_counts(tmp_path: Path) -> None:
    folder = shards(tmp_path)
    named = recipe(folder / "train-*.parquet")
    assert prepared(named, tmp_path)[1] == prepared(recipe(folder), tmp_path)[1]
    before = files_identity(named)
    assert file_digests(named)["data.train"] == file_digests(recipe(folder))["data.train"]
    write(folder / "README.md", b"# Other words")
    assert files_identity(named) == before
    (folder / "train-00002-of-00003.parquet").unlink()
    assert files_identity(named) != before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jsonl", "b.csv"], "files of several formats (CSV, JSON, such as b.csv, a.jsonl)"),
        (
            ["train-0.jsonl", "gsm8k_test.jsonl"],
            "files of several splits (test, train, such as gsm8k_test.jsonl, train-0.jsonl); "
            "name those to read by a pattern, {folder}/train-*",
        ),
        (["README.md", "rows.arrow"], "holds no file of rows"),
        ([], "holds no file of rows"),
    ],
)
def test_a_folder_holds_one_format_and_one_split(
    names: list[str], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in names:
        write(folder / name, b"")
    with pytest.raises(ConfigError) as caught:
        prepared(recipe(folder), tmp_path)
    assert message.format(folder=folder) in str(caught.value)


def test_a_pattern_without_files_and_a_name_that_may_be_of_the_hub_say_what_to_write(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="matches no file of rows"):
        prepared(recipe(tmp_path / "*.csv"), tmp_path)
    with pytest.raises(ConfigError, match=r"write hub://openai/gsm8k@COMMIT"):
        prepared(recipe(tmp_path / "openai/gsm8k"), tmp_path)


def test_a_prefix_in_s3_and_a_pattern_there_name_their_files(tmp_path: Path, s3: str) -> None:
    local = prepared(recipe(shards(tmp_path)), tmp_path)[1]
    storage = open_storage(f"{s3}/rows")
    for path in (tmp_path / "train").iterdir():
        storage.write_bytes(path.name, path.read_bytes())
    storage.write_bytes("older/train.parquet", b"not read")
    identities = set()
    for source in (f"{s3}/rows", f"{s3}/rows/", f"{s3}/rows/train-*.parquet"):
        assert prepared(recipe(source), tmp_path)[1] == local
        identities.add(files_identity(recipe(source)))
    assert len(identities) == 1
    with pytest.raises(ConfigError, match="matches no file of rows"):
        prepared(recipe(f"{s3}/rows/*.csv"), tmp_path)


@pytest.mark.parametrize(
    ("pasted", "form"),
    [
        ("https://huggingface.co/datasets/openai/gsm8k", "hub://openai/gsm8k@COMMIT"),
        ("https://huggingface.co/datasets/openai/gsm8k/", "hub://openai/gsm8k@COMMIT"),
        ("https://hf.co/datasets/openai/gsm8k/tree/main/main", "hub://openai/gsm8k@COMMIT"),
        ("https://huggingface.co/datasets/a/b/tree/0f1e2d", "hub://a/b@0f1e2d"),
        (
            "https://huggingface.co/datasets/openai/gsm8k/viewer/main/test?row=3",
            "hub://openai/gsm8k@COMMIT?config=main&split=test",
        ),
        ("hf://datasets/openai/gsm8k", "hub://openai/gsm8k@COMMIT"),
        ("hub://datasets/openai/gsm8k@main", "hub://openai/gsm8k@COMMIT"),
        ("https://huggingface.co/datasets/squad", "hub://squad@COMMIT"),
        ("hub://openai/gsm8k?config=main", "hub://openai/gsm8k@COMMIT?config=main"),
    ],
)
def test_a_pasted_address_of_the_hub_is_told_its_form(pasted: str, form: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe(pasted)
    assert str(caught.value).endswith(f"write {form}")


def test_an_address_elsewhere_is_not_a_source() -> None:
    with pytest.raises(ConfigError, match=r"'https://x.org/rows.csv' is neither a path, s3"):
        recipe("https://x.org/rows.csv")
