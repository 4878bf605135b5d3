"""What a job needs, put into its run directory once.

A retried step adopts the job that it started, so what the job reads is not written again while it
is the same. Other settings and rows replace what is there where nothing was trained from it, or
where they decide no weights; else they are refused.
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
    """Put the recipe and the data there.

    Raises ConfigError or DataError when others were trained from, CheckpointError, PlatformError.
    """
    trained = check_continues_there(storage, recipe)
    content = recipe.model_dump_json(indent=2).encode() + b"\n"
    if not storage.put_if_absent(RECIPE, content) and read_recipe(storage).hash != recipe.hash:
        storage.write_bytes(RECIPE, content)
    stage_folder(storage, data_dir, DATA, fixed=TRAINED_ON if trained else ())


def check_continues_there(storage: Storage, recipe: Recipe) -> bool:
    """Return whether a step is committed in a run directory.

    Raises ConfigError when the recipe decides other weights than it was trained with. What is in
    the files that it names is compared by the pods, which have them.
    """
    earlier = newest_trajectory(storage)
    if earlier and (different := Trajectory(recipe, {}).differences(earlier)):
        raise ConfigError(
            f"{storage.uri} was trained with other settings:\n{listed(different)}\n"
            "Name another storage, start a new run, or use the same settings to continue that one"
        )
    return earlier is not None


def stage_folder(
    storage: Storage, source: Path, prefix: str, *, fixed: Collection[str] | None = None
) -> None:
    """Put a folder there; its list of hashes comes last, and says that all of it is there.

    Raises DataError when other files are there and any of them is `fixed` (default: all are),
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
            f"{storage.uri}/{prefix} holds other files ({', '.join(different[:5])}) than this run "
            "has; name another storage, or start a new run"
        )
    if different:
        if there:
            storage.write_bytes(listing, b"{}")  # until all of the other folder is there
        storage.upload_dir(source, prefix)
        storage.write_bytes(listing, json.dumps(here, indent=2, sort_keys=True).encode())


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder by its path there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
