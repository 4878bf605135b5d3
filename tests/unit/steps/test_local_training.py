import json
from pathlib import Path

import pytest

from rlvr_components.jobs import Backend, JobSpec
from rlvr_components.steps import local_training
from rlvr_components.steps.local_training import last_numbers, replace_folder, train_locally
from rlvr_trainer.recipe.reader import parse_recipe

RECIPE = parse_recipe({"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}})


def test_a_training_job_finds_recipe_and_data_in_its_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run_dir = tmp_path / "prepared", tmp_path / "run"
    data.mkdir()
    (data / "train.jsonl").write_text("{}\n")
    launched: list[JobSpec] = []

    def launch(backend: Backend, spec: JobSpec) -> None:
        assert json.loads((run_dir / "recipe.json").read_text())["name"] == "tiny"
        assert (run_dir / "data" / "train.jsonl").read_text() == "{}\n"
        launched.append(spec)

    monkeypatch.setattr(local_training, "launch", launch)
    train_locally(RECIPE, run_dir, data)

    assert launched[0].run_dir == str(run_dir)


def test_a_folder_is_replaced_by_a_whole_copy(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder, name in ((new, "a"), (old, "b")):
        folder.mkdir()
        (folder / name).write_text(name)
    (tmp_path / ".old.tmp").mkdir()  # left by an interrupted copy

    replace_folder(new, old)

    assert [path.name for path in old.iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_the_last_numbers_are_those_of_the_newest_step(tmp_path: Path) -> None:
    events = [
        {"event": "step", "step": 1, "reward": 0.1},
        {"event": "step", "step": 2, "reward": 0.4, "rewards/format/mean": 0.3, "kl": None},
        {"event": "phase", "phase": "train", "state": "finished"},
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (tmp_path / "metrics.jsonl").write_text(lines)

    assert last_numbers(tmp_path / "metrics.jsonl") == {
        "steps": 2.0,
        "reward": 0.4,
        "rewards/format/mean": 0.3,
    }


def test_a_run_without_steps_has_no_numbers(tmp_path: Path) -> None:
    assert last_numbers(tmp_path / "metrics.jsonl") == {}
