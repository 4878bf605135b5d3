"""Decide which trainings may resume from a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from rlvr_trainer.errors import CheckpointError
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import (
    TRAINER_STATE,
    TRAJECTORY,
    Trajectory,
    check_continues,
    is_last,
    parse_trajectory,
    read_trajectory,
    trajectory_of,
)
from rlvr_trainer.run_dir.remote_checkpoint import newest_trajectory
from rlvr_trainer.storage import LocalStorage
from rlvr_trainer.storage.atomic_files import write_text


def recipe(*overrides: str) -> Recipe:
    return load_recipe("arithmetic", overrides)


def differences(*overrides: str, earlier: Recipe | None = None) -> list[str]:
    return trajectory_of(recipe(*overrides)).differences(trajectory_of(earlier or recipe()))


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "description=other",
        "training.save_steps=7",
        "training.keep_checkpoints=5",
        "training.validation_steps=3",
        "training.max_steps=60",
        "evaluation.shots=[0, 8]",
        "evaluation.num_rows=10",
        "evaluation.max_completion_tokens=64",
    ],
)
def test_fields_that_do_not_affect_the_weights_may_change(override: str) -> None:
    assert differences(override) == []


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("seed=7", "seed: 1 there, 7 here"),
        ("training.learning_rate=1e-3", "training.learning_rate: 0.0005 there, 0.001 here"),
        ("lora=null", "lora: nothing there, None here"),
        ("rewards.format.weight=2", "rewards.format.weight: 1.0 there, 2.0 here"),
        ("training.max_steps=20", "training.max_steps: 30 there, 20 here; it may only grow"),
        ("training.max_steps=null", "training.max_steps: 30 there, None here; it may only grow"),
        ("grpo.beta=0.1", "grpo.beta: 0.0 there, 0.1 here"),
    ],
)
def test_fields_that_affect_the_weights_may_not_change(override: str, shown: str) -> None:
    assert shown in differences(override)


def test_epochs_may_only_grow() -> None:
    by_epochs = recipe("training.max_steps=null", "training.num_epochs=2")

    assert differences("training.max_steps=null", "training.num_epochs=3", earlier=by_epochs) == []
    assert differences("training.max_steps=null", earlier=by_epochs) == [
        "training.num_epochs: 2.0 there, 1.0 here; it may only grow"
    ]


def test_a_field_of_a_later_release_has_its_default_in_an_earlier_checkpoint(
    tmp_path: Path,
) -> None:
    tree = json.loads(trajectory_of(recipe()).to_json())
    del tree["recipe"]["training"]["max_grad_norm"], tree["recipe"]["shared_prefix"]
    write_text(tmp_path / TRAJECTORY, json.dumps(tree))

    earlier = read_trajectory(tmp_path)

    assert trajectory_of(recipe()).differences(earlier) == []
    changed = trajectory_of(recipe("training.max_grad_norm=0.5")).differences(earlier)
    assert changed == ["training.max_grad_norm: 1.0 there, 0.5 here"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "one"
    (folder / "model" / "nested").mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": 2}\n')
    (folder / "mine.py").write_text("from helper import LIMIT\n\ndef brief(c, row): ...\n")
    (folder / "helper.py").write_text("LIMIT = 1\n")
    (folder / "unrelated.py").write_text("")
    (folder / "mine.jinja").write_text("{{ messages }}")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "model" / "nested" / "tokenizer.json").write_text("[true]")
    return folder


def of_files(folder: Path) -> Trajectory:
    return trajectory_of(
        recipe(
            f"data.train={folder}/rows.jsonl",
            f"rewards.brief.function={folder}/mine.py:brief",
            f"task={folder}/mine.py:Task",
            f"model.name={folder}/model",
            "prompt.style=chat",
            f"prompt.chat_template={folder}/mine.jinja",
        )
    )


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("rows.jsonl", "data.train"),
        ("mine.py", "rewards.brief.function"),
        ("mine.py", "task"),
        ("helper.py", "rewards.brief.function"),
        ("model/model.safetensors", "model.name"),
        ("model/nested/tokenizer.json", "model.name"),
        ("mine.jinja", "prompt.chat_template"),
    ],
)
def test_the_content_of_named_files_decides_the_weights(file: str, field: str, files: Path) -> None:
    earlier = of_files(files)
    path, before = files / file, (files / file).stat()
    path.write_bytes(path.read_bytes().swapcase())  # same size, same modification time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    changed = of_files(files).differences(earlier)

    assert [line for line in changed if line.startswith(f"{field}: the content of {files}/")]


def test_a_file_that_is_not_imported_does_not_count(files: Path) -> None:
    earlier = of_files(files)
    (files / "unrelated.py").write_text("1")
    assert of_files(files).differences(earlier) == []


def test_another_checkout_of_the_same_files_is_the_same(files: Path, tmp_path: Path) -> None:
    earlier = of_files(files)
    shutil.copytree(files, tmp_path / "two")
    assert of_files(tmp_path / "two").differences(earlier) == []


def test_another_function_of_the_same_file_is_another_reward(files: Path) -> None:
    earlier = of_files(files)
    other = recipe(
        f"data.train={files}/rows.jsonl",
        f"rewards.brief.function={files}/mine.py:other",
        f"task={files}/mine.py:Task",
        f"model.name={files}/model",
        "prompt.style=chat",
        f"prompt.chat_template={files}/mine.jinja",
    )
    assert len(trajectory_of(other).differences(earlier)) == 1


def test_rows_that_a_pod_does_not_have_are_left_to_the_comparison_of_rows() -> None:
    one, two = (recipe(f"data.train=/nowhere/{name}/rows.jsonl") for name in ("a", "b"))
    assert trajectory_of(two).differences(trajectory_of(one)) == []
    hub = recipe("data.train=hub://o/n@1")
    assert trajectory_of(hub).differences(trajectory_of(one)) != []


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step-1 was .* other settings:\n  seed: 1 there, 7"):
        check_continues(trajectory_of(recipe()), trajectory_of(recipe("seed=7")), "step-1")


def test_the_trajectory_of_an_unreadable_checkpoint_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_trajectory(tmp_path)
    with pytest.raises(CheckpointError, match="use another run directory"):
        parse_trajectory('{"recipe": {"later": 1}, "files": {}}', origin="here")


def test_the_newest_checkpoint_of_a_storage_says_what_it_belongs_to(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert newest_trajectory(storage) is None
    for step, seed in ((2, 7), (10, 8)):
        folder = f"checkpoints/step-{step}.attempt-1f0c9a2e"
        own = trajectory_of(recipe(f"seed={seed}"))
        storage.write_bytes(f"{folder}/{TRAJECTORY}", own.to_json().encode())
        storage.write_bytes(f"{folder}/COMMITTED.json", b"{}")

    trajectory = newest_trajectory(storage)

    assert trajectory is not None
    assert trajectory.recipe.seed == 8


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["training.max_steps=30"], True),
        (["training.max_steps=31"], False),
        (["training.max_steps=null"], True),
        (["training.max_steps=null", "training.num_epochs=2"], False),
    ],
)
def test_the_last_step_is_the_recipes_own(
    overrides: list[str], expected: bool, tmp_path: Path
) -> None:
    (tmp_path / TRAINER_STATE).write_text('{"global_step": 30, "max_steps": 30}')
    earlier = recipe("training.max_steps=null") if "null" in overrides[0] else recipe()
    write_text(tmp_path / TRAJECTORY, trajectory_of(earlier).to_json())

    assert is_last(tmp_path, recipe(*overrides)) is expected
