"""Write the inputs of a job to its run directory, once.

A retried step adopts the job that it started, so unchanged inputs are not written again. Changed
settings and rows replace the staged ones if nothing was trained from them, or if they do not
influence the weights; otherwise they are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from rlvr_trainer.data.splits import TRAINED_ON
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import Trajectory, listed
from rlvr_trainer.run_dir.layout import DATA, RECIPE, read_recipe
from rlvr_trainer.run_dir.remote_checkpoint import newest_trajectory
from rlvr_trainer.storage import Storage


def stage(storage: Storage, recipe: Recipe, data_dir: Path) -> None:
    """Write the recipe and the data to the storage.

    Raises ConfigError or DataError if training used others, CheckpointError, PlatformError.
    """
    trained = check_continues_there(storage, recipe)
    content = recipe.model_dump_json(indent=2).encode() + b"\n"
    if not storage.put_if_absent(RECIPE, content) and read_recipe(storage).hash != recipe.hash:
        storage.write_bytes(RECIPE, content)
    stage_folder(storage, data_dir, DATA, fixed=TRAINED_ON if trained else ())


def check_continues_there(storage: Storage, recipe: Recipe) -> bool:
    """Return True if a checkpoint is committed in the run directory.

    Raises ConfigError if the recipe leads to other weights than those trained there. The pods
    compare the contents of the files that the recipe names, since they have them.
    """
    earlier = newest_trajectory(storage)
    if earlier and (different := Trajectory(recipe, {}).differences(earlier)):
        raise ConfigError(
            f"{storage.uri} was trained with other settings:\n{listed(different)}\n"
            "Name another storage, start a new run, or use the same settings to continue that run"
        )
    return earlier is not None


def stage_folder(
    storage: Storage, source: Path, prefix: str, *, fixed: Collection[str] | None = None
) -> None:
    """Write a folder to the storage; its list of hashes comes last and marks it as complete.

    Raises DataError if other files are there and any of them is `fixed` (default: all are),
    PlatformError.
    """
    here, listing = file_hashes(source), f"{prefix}.sha256.json"
    try:
        there = json.loads(storage.read_bytes(listing))
    except FileNotFoundError:
        there = {}
    different = sorted(
        name for name in there.keys() | here.keys() if there.get(name) != here.get(name)
    )
    if there and (different if fixed is None else set(different) & set(fixed)):
        raise DataError(
            f"{storage.uri}/{prefix} holds other files ({', '.join(different[:5])}) than this run; "
            "name another storage, or start a new run"
        )
    if different:
        if there:
            storage.write_bytes(listing, b"{}")  # until the other folder is complete
        storage.upload_dir(source, prefix)
        storage.write_bytes(listing, json.dumps(here, indent=2, sort_keys=True).encode())


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below the folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
