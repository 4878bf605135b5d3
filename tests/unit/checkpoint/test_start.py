"""Checkpoints from which a training may resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr_trainer.errors import CheckpointError, PlatformError
from rlvr_trainer.grpo import training
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.checkpoint import MARKER, Checkpoint


def recipe(stage: int) -> Recipe:
    return load_recipe("arithmetic", [f"training.zero_stage={stage}"])


def test_shards_fit_the_number_of_processes_that_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = Checkpoint(tmp_path, 10, world_size=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(CheckpointError, match=r"trained by 2 processes, these are 4.*train with 2"):
        training._assert_same_world_size(recipe(3), committed)
    training._assert_same_world_size(recipe(0), committed)  # each rank holds everything
    monkeypatch.setenv("WORLD_SIZE", "2")
    training._assert_same_world_size(recipe(3), committed)


def test_nodes_that_found_different_checkpoints_do_not_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / MARKER).write_text("{}")
    committed = Checkpoint(tmp_path, 10, world_size=2)
    monkeypatch.setattr(training, "gather_objects", lambda value: [value, value])
    training._assert_same_start(committed)
    monkeypatch.setattr(training, "gather_objects", lambda value: [value, None])
    with pytest.raises(PlatformError, match="the nodes found different checkpoints"):
        training._assert_same_start(committed)
