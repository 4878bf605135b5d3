"""The local files that a recipe names: what depends on them is not reused once they change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from rlvr_trainer import __version__
from rlvr_trainer.recipe.named_files import file_digests
from rlvr_trainer.recipe.schema import Recipe


def fingerprint(recipe: Recipe) -> str:
    """Twelve hex digits of this package's version and of the named files' content."""
    state = [__version__, file_digests(recipe)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]


def files_of_this_machine(recipe: Recipe, *, data: bool) -> list[str]:
    """What the recipe names that is a file or folder here, its data included or not."""
    rows = {recipe.data.train, recipe.data.test}
    named = (name for name in _named_files(recipe) if data or name not in rows)
    return sorted({name for name in named if _exists(name)})


def _named_files(recipe: Recipe) -> Iterator[str]:
    yield from (recipe.data.train, recipe.data.test, recipe.model.name)
    code = (recipe.task, *(reward.function for reward in recipe.rewards.values()))
    yield from (spec.rpartition(":")[0] for spec in code)


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False
