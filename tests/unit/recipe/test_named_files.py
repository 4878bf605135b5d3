from pathlib import Path

from rlvr_pipelines.cli.options import files_of_this_machine
from rlvr_trainer.recipe.named_files import file_digests
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe


def recipe(**fields: object) -> Recipe:
    return parse_recipe(
        {"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}, **fields}
    )


def test_the_same_files_have_the_same_digests(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    of_rows = recipe(data={"train": str(rows)})

    assert file_digests(of_rows) == file_digests(of_rows)
    assert file_digests(of_rows) != file_digests(recipe())


def test_changed_rows_or_code_change_the_digests(tmp_path: Path) -> None:
    for field in ("train", "task", "reward", "template"):
        file = tmp_path / f"{field}.py"
        file.write_text("1")
        named = {
            "train": {"data": {"train": str(file)}},
            "task": {"task": f"{file}:Mine"},
            "reward": {"rewards": {"mine": {"function": f"{file}:mine"}}},
            "template": {"prompt": {"style": "chat", "chat_template": str(file)}},
        }[field]
        before = file_digests(recipe(**named))
        file.write_text("2")

        assert file_digests(recipe(**named)) != before, field


def test_files_elsewhere_have_no_digests() -> None:
    assert file_digests(recipe(data={"train": "s3://bucket/rows.jsonl"})) == file_digests(recipe())


def test_files_that_pods_do_not_have_are_listed(tmp_path: Path) -> None:
    rows, code = tmp_path / "rows.jsonl", tmp_path / "mine.py"
    rows.write_text("{}\n")
    code.write_text("1")
    named = recipe(data={"train": str(rows)}, rewards={"mine": {"function": f"{code}:mine"}})

    assert files_of_this_machine(named, data=True) == sorted([str(code), str(rows)])
    assert files_of_this_machine(named, data=False) == [str(code)]
    chat = recipe(prompt={"style": "chat", "chat_template": str(code)})
    assert files_of_this_machine(chat, data=False) == [str(code)]
    assert files_of_this_machine(recipe(), data=True) == []
