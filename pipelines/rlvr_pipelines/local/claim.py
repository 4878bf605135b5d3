"""Claim a run directory for a recipe and a process."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import (
    Trajectory,
    listed,
    read_trajectory,
    recipe_changes,
    trajectory_of,
)
from rlvr_trainer.run_dir.checkpoint import newest_committed
from rlvr_trainer.run_dir.layout import (
    ADAPTER,
    CHECKPOINTS,
    DATA,
    EVALUATION,
    METRICS,
    REPORT,
    SAMPLES,
    RunDir,
    read_recipe,
)
from rlvr_trainer.storage.atomic_files import disk_error, write_text

_OURS = (DATA, CHECKPOINTS, ADAPTER, "before", "after", METRICS, SAMPLES, EVALUATION, REPORT)
"""Files that a run replaces."""


@dataclass(frozen=True)
class Claim:
    """A run directory that is locked for this process."""

    run_dir: RunDir
    lock: IO[str]


@contextmanager
def claim(path: Path, recipe: Recipe, *, reopen: bool = True) -> Iterator[Claim]:
    """Lock the directory, and write the recipe into it.

    Changed settings are printed. Settings that decide the weights may change until a checkpoint is
    committed. If settings that decide the results changed, a finished run is evaluated again;
    without `reopen`, that is an error.

    Raises ConfigError if the directory cannot be written, is in use, was trained with other
    settings, or holds files that no run wrote; CheckpointError; PlatformError for a full disk.
    """
    run_dir = RunDir(path)
    _check_nothing_is_replaced(run_dir)
    try:
        run_dir.log.parent.mkdir(parents=True, exist_ok=True)
        lock = run_dir.lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from None
    with lock:
        _lock(lock, path)
        if run_dir.recipe.exists():
            _apply_changes(run_dir, recipe, reopen=reopen)
        write_text(run_dir.recipe, recipe.model_dump_json(indent=2) + "\n")
        yield Claim(run_dir, lock)


def _lock(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        raise ConfigError(
            f"{path} is in use by another run{f' (process {holder})' if holder else ''}; wait for "
            "it or stop it, or use another --run-dir"
        ) from None
    except OSError as error:
        raise disk_error(path, error) from None


def _check_nothing_is_replaced(run_dir: RunDir) -> None:
    """Raise ConfigError for files in a folder without recipe.json: no run wrote them."""
    if run_dir.recipe.exists():
        return
    names = [name for name in _OURS if (run_dir.path / name).exists()]
    if names:
        raise ConfigError(
            f"{run_dir.path} is not a run directory (no recipe.json), and a run would replace "
            f"{', '.join(names)} in it; name another --run-dir"
        )


def _apply_changes(run_dir: RunDir, recipe: Recipe, *, reopen: bool) -> None:
    """Print the settings that changed; delete an evaluation that was made with other settings."""
    recorded, own = read_recipe(run_dir.path), trajectory_of(recipe)
    committed = newest_committed(run_dir.checkpoints)
    earlier = read_trajectory(committed) if committed else Trajectory(recorded, {})
    if (committed or run_dir.adapter.exists()) and (different := own.differences(earlier)):
        raise ConfigError(
            f"{run_dir.path} was trained with other settings:\n{listed(different)}\n"
            "Use another --run-dir, or the same settings and files to continue that run"
        )
    if not (changes := recipe_changes(recorded, recipe)):
        return
    changed = own.result_differences(Trajectory(recorded, earlier.files))
    if changed and run_dir.evaluation.exists():
        if not reopen:
            raise ConfigError(
                f"{run_dir.path} holds the results of a run with other settings:\n"
                f"{listed(changed)}\nUse another --run-dir"
            )
        run_dir.evaluation.unlink()
    print(f"{run_dir.path} continues with changed settings:\n{listed(changes)}", file=sys.stderr)
