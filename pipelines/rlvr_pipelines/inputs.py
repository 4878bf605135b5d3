"""The local files that a recipe names: what depends on them is not reused once they change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from rlvr_trainer import __version__
from rlvr_trainer.recipe import Recipe


def fingerprint(recipe: Recipe) -> str:
    """Twelve hex digits of this package's version and of the named files' sizes and times."""
    state = [__version__, *(_state(path) for path in sorted(_named_files(recipe)))]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]


def files_of_this_machine(recipe: Recipe, *, data: bool) -> list[str]:
    """What the recipe names that is a file or folder here, its data included or not."""
    rows = {recipe.data.train, recipe.data.test}
    named = (name for name in _named_files(recipe) if data or name not in rows)
    return sorted({name for name in named if _state(name)})


def _named_files(recipe: Recipe) -> Iterator[str]:
    yield from (recipe.data.train, recipe.data.test, recipe.model.name)
    code = (recipe.task, *(reward.function for reward in recipe.rewards.values()))
    yield from (spec.rpartition(":")[0] for spec in code)


def _state(name: str) -> tuple[str, int, int] | None:
    """Path, bytes and time; None for what is no file of this machine."""
    try:
        path = Path(name).expanduser()
        stat = path.stat()
    except (OSError, RuntimeError, ValueError):
        return None
    return (name, stat.st_size, stat.st_mtime_ns) if name else None
