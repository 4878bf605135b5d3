"""Which checkpoints a training may continue from."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr_trainer.checkpoint import MARKER, Checkpoint
from rlvr_trainer.errors import CheckpointError, PlatformError
from rlvr_trainer.grpo import run
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import load_recipe


def recipe(stage: int) -> Recipe:
    return load_recipe("arithmetic", [f"training.zero_stage={stage}"])


def test_shards_fit_the_number_of_processes_that_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = Checkpoint(tmp_path, 10, world_size=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(CheckpointError, match=r"trained by 2 processes, these are 4.*train with 2"):
        run._assert_same_world_size(recipe(3), committed)
    run._assert_same_world_size(recipe(0), committed)  # each rank holds everything
    monkeypatch.setenv("WORLD_SIZE", "2")
    run._assert_same_world_size(recipe(3), committed)


def test_nodes_that_found_different_checkpoints_do_not_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MARKER).write_text("{}")
    committed = Checkpoint(tmp_path, 10, world_size=2)
    monkeypatch.setattr(run, "gather_objects", lambda value: [value, value])
    run._assert_same_start(committed)
    monkeypatch.setattr(run, "gather_objects", lambda value: [value, None])
    with pytest.raises(PlatformError, match="the nodes found different checkpoints"):
        run._assert_same_start(committed)
