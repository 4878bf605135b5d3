"""What a job needs, put into its run directory once.

A retried step adopts the job that it started, so what the job reads is never written again: what is
there already is compared, and refused when it is another's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import parse_recipe
from rlvr_trainer.storage import Storage

RECIPE, DATA = "recipe.json", "data"


def stage(storage: Storage, recipe: Recipe, data_dir: Path) -> None:
    """The recipe and the data.

    Raises ConfigError when the run directory is another recipe's, DataError when it holds other
    data, PlatformError.
    """
    if not storage.put_if_absent(RECIPE, recipe.model_dump_json(indent=2).encode() + b"\n"):
        _check_same_recipe(storage, recipe)
    stage_folder(storage, data_dir, DATA)


def stage_folder(storage: Storage, source: Path, prefix: str) -> None:
    """A folder; its list of hashes comes last, and says that all of it is there.

    Raises DataError when another folder's files are there, PlatformError.
    """
    here, listing = _hashes(source), f"{prefix}.sha256.json"
    try:
        there = json.loads(storage.read_bytes(listing))
    except FileNotFoundError:
        storage.upload_dir(source, prefix)
        storage.write_bytes(listing, json.dumps(here, indent=2, sort_keys=True).encode())
        return
    if there != here:
        different = sorted(
            name for name in there.keys() | here.keys() if there.get(name) != here.get(name)
        )
        raise DataError(
            f"{storage.uri}/{prefix} holds other files ({', '.join(different[:5])}) than this run "
            "has; name another storage, or start a new run"
        )


def _check_same_recipe(storage: Storage, recipe: Recipe) -> None:
    where = f"{storage.uri}/{RECIPE}"
    try:
        there = parse_recipe(json.loads(storage.read_bytes(RECIPE)), origin=where)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON ({error}); name another storage") from None
    if there.hash != recipe.hash:
        raise ConfigError(
            f"{where} is of recipe {there.name} ({there.hash}), this run's is {recipe.name} "
            f"({recipe.hash}); name another storage, or start a new run"
        )


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
