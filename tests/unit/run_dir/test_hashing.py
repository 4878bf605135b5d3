"""A checkpoint's files are hashed once per node: when saved and when resumed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr_trainer.grpo.committing_trainer import RLVRTrainer
from rlvr_trainer.launch.node_run_dir import RemoteCopy, SharedFolder
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.trajectory import TRAINER_STATE, TRAJECTORY, trajectory_of
from rlvr_trainer.run_dir import checkpoint, remote_checkpoint
from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer
from rlvr_trainer.storage import LocalStorage
from rlvr_trainer.variables import VERIFIED_VARIABLE

RECIPE = load_recipe("arithmetic")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of hashed files, in order."""
    names: list[str] = []
    describe = checkpoint._describe

    def count(path: Path) -> dict[str, Any]:
        names.append(path.name)
        return describe(path)

    monkeypatch.setattr(checkpoint, "_describe", count)
    return names


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Create a run directory with a recipe, data, and a checkpoint of step 2 of 4."""
    root = tmp_path / "run"
    (root / "data").mkdir(parents=True)
    (root / "data" / "train.jsonl").write_text("{}\n")
    (root / "recipe.json").write_text(RECIPE.model_dump_json())
    staged = checkpoint.staging_dir(root / "checkpoints") / "checkpoint-2"
    staged.mkdir()
    (staged / "weights").write_bytes(b"weights")
    state = {"global_step": 2, "max_steps": 4}
    (staged / TRAINER_STATE).write_text(json.dumps(state))
    checkpoint.commit(staged, root / "checkpoints", step=2, world_size=2)
    return root


@pytest.mark.parametrize("kind", ["shared", "remote"])
def test_a_launch_verifies_for_all_its_ranks(
    kind: str, run_dir: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(run_dir)  # stands for S3 where the copy is elsewhere
    node = SharedFolder(storage) if kind == "shared" else RemoteCopy(storage, tmp_path / "copy", 0)
    hashed.clear()

    node.fetch(required=True)
    monkeypatch.setenv(VERIFIED_VARIABLE, node.environment[VERIFIED_VARIABLE])
    for _ in range(8):
        resumed = checkpoint.to_resume(node.path / "checkpoints")
        assert resumed is not None
        assert (resumed.path, resumed.step) == (node.path / "checkpoints" / "step-2", 2)

    assert sorted(hashed) == ["trainer_state.json", "weights"]


def test_a_launch_without_a_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VERIFIED_VARIABLE, "")
    assert checkpoint.to_resume(tmp_path) is None


def test_without_a_launch_the_process_verifies_itself(run_dir: Path, hashed: list[str]) -> None:
    assert checkpoint.to_resume(run_dir / "checkpoints")
    assert sorted(hashed) == ["trainer_state.json", "weights"]


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_save_hashes_each_file_once(
    is_remote: bool, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(trainer: Any, model: Any, trial: Any) -> None:
        staged = Path(trainer.args.output_dir) / "checkpoint-2"
        staged.mkdir(parents=True)
        (staged / "weights").write_bytes(b"weights")

    monkeypatch.setattr(SharedPrefixGRPOTrainer, "_save_checkpoint", save)
    if is_remote:
        monkeypatch.setenv("RLVR_RUN_URI", str(tmp_path / "s3"))
    trainer: Any = RLVRTrainer.__new__(RLVRTrainer)
    trainer.__dict__ |= {
        "state": SimpleNamespace(global_step=2),
        "args": SimpleNamespace(output_dir=str(tmp_path / "checkpoints" / ".staging")),
        "accelerator": SimpleNamespace(
            is_main_process=True,
            is_local_main_process=True,
            process_index=0,
            num_processes=1,
            wait_for_everyone=lambda: None,
        ),
        "recipe": RECIPE,
        "trajectory": trajectory_of(RECIPE),
        "data_hash": "data",
        "checkpoints": tmp_path / "checkpoints",
    }

    trainer._save_checkpoint(None, None)

    assert sorted(hashed) == ["data.sha256", TRAJECTORY, "weights"]
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path / "checkpoints")
    if is_remote:
        assert remote_checkpoint.committed_step(LocalStorage(tmp_path / "s3")) == 2
