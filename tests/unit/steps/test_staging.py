import json
from pathlib import Path

import pytest

from rlvr_components.steps.staging import file_hashes, stage, stage_folder
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import TRAJECTORY, trajectory_of
from rlvr_trainer.storage import LocalStorage


class Counted(LocalStorage):
    """Storage that counts its writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []

    def write_bytes(self, key: str, content: bytes) -> None:
        self.written.append(key)
        super().write_bytes(key, content)


def recipe(**fields: object) -> Recipe:
    return parse_recipe(
        {"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}, **fields}
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("{}\n")
    return folder


def test_a_second_attempt_writes_nothing(tmp_path: Path, data: Path) -> None:
    storage = Counted(tmp_path / "run")
    stage(storage, recipe(), data)
    assert storage.list() == ["data.sha256.json", "data/train.jsonl", "recipe.json"]
    storage.written.clear()

    stage(storage, recipe(description="another"), data)

    assert storage.written == []


def test_a_staging_that_was_cut_short_is_done_again(tmp_path: Path, data: Path) -> None:
    storage = Counted(tmp_path / "run")
    stage(storage, recipe(), data)
    storage.delete("data.sha256.json")
    storage.write_bytes("data/train.jsonl", b"half")

    stage(storage, recipe(), data)

    assert storage.read_bytes("data/train.jsonl") == b"{}\n"


def commit_step(storage: LocalStorage, of: Recipe) -> None:
    folder = "checkpoints/step-10"
    storage.write_bytes(f"{folder}/{TRAJECTORY}", trajectory_of(of).to_json().encode())
    storage.write_bytes(f"{folder}/COMMITTED.json", b"{}")


def test_a_recipe_that_others_were_trained_with_is_refused(tmp_path: Path, data: Path) -> None:
    storage = Counted(tmp_path / "run")
    stage(storage, recipe(), data)
    commit_step(storage, recipe())

    with pytest.raises(ConfigError, match=r"trained with other settings:\n  seed: 42 there, 7"):
        stage(storage, recipe(seed=7), data)

    assert json.loads(storage.read_bytes("recipe.json"))["seed"] == 42


def test_settings_that_do_not_affect_the_weights_replace_earlier_ones(
    tmp_path: Path, data: Path
) -> None:
    storage = Counted(tmp_path / "run")
    stage(storage, recipe(), data)
    commit_step(storage, recipe())
    (data / "test.jsonl").write_text("{}\n")

    stage(storage, recipe(training={"num_epochs": 2}), data)

    assert json.loads(storage.read_bytes("recipe.json"))["training"]["num_epochs"] == 2
    assert storage.exists("data/test.jsonl")


def test_before_anything_is_trained_settings_and_rows_simply_apply(
    tmp_path: Path, data: Path
) -> None:
    storage = Counted(tmp_path / "run")
    stage(storage, recipe(), data)
    (data / "train.jsonl").write_text("[]\n")

    stage(storage, recipe(seed=7), data)

    assert json.loads(storage.read_bytes("recipe.json"))["seed"] == 7
    assert storage.read_bytes("data/train.jsonl") == b"[]\n"
    assert json.loads(storage.read_bytes("data.sha256.json")) == file_hashes(data)


def test_other_training_rows_than_those_trained_on_are_refused(tmp_path: Path, data: Path) -> None:
    storage = Counted(tmp_path / "run")
    stage(storage, recipe(), data)
    commit_step(storage, recipe())
    (data / "train.jsonl").write_text("[]\n")

    with pytest.raises(DataError, match=r"/data holds other files \(train.jsonl\)"):
        stage(storage, recipe(), data)

    assert storage.read_bytes("data/train.jsonl") == b"{}\n"


def test_files_of_the_same_size_are_distinguished(tmp_path: Path, data: Path) -> None:
    storage = Counted(tmp_path / "run")
    stage_folder(storage, data, "adapter")
    (data / "train.jsonl").write_text("[]\n")

    with pytest.raises(DataError):
        stage_folder(storage, data, "adapter")
