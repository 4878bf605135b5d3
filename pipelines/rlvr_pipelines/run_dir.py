"""The run directory: where its parts are, and who may write to it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.files import disk_error, write_text
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import parse_recipe

NUM_SHOWN_DIFFERENCES = 8

_OURS = ("data", "checkpoints", "adapter", "before", "after", "metrics.jsonl", "samples.jsonl",
         "evaluation.json", "report.html")  # fmt: skip
"""What a run replaces."""


@dataclass(frozen=True)
class RunDir:
    """The files of a run directory."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.json"

    @property
    def data(self) -> Path:
        """The prepared data."""
        return self.path / "data"

    @property
    def adapter(self) -> Path:
        """What was trained."""
        return self.path / "adapter"

    @property
    def events(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Per-sample results, before and after."""
        return self.path / "samples.jsonl"

    @property
    def evaluation(self) -> Path:
        """Accuracy before and after; written last, so that a run that has it is whole."""
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        """One HTML file."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What the steps printed."""
        return self.path / "logs" / "pipeline.log"

    @property
    def pipeline(self) -> Path:
        """Outputs and keys of the steps of an unfinished run."""
        return self.path / ".pipeline"

    @property
    def before(self) -> Path:
        """The base model's samples."""
        return self.pipeline / "before"

    @property
    def after(self) -> Path:
        """The trained model's samples."""
        return self.pipeline / "after"

    @property
    def history(self) -> Path:
        """The events of a training in a cluster."""
        return self.pipeline / "history.jsonl"

    @property
    def remote_id(self) -> Path:
        """What the run is called in a cluster, so that another attempt finds its jobs."""
        return self.path / "run-id"


@dataclass(frozen=True)
class Claim:
    """A run directory that this process alone may run in."""

    run_dir: RunDir
    lock: IO[str]


@contextmanager
def claim(path: Path, recipe: Recipe) -> Iterator[Claim]:
    """Make the directory this recipe's, and keep others out of it.

    Raises ConfigError when it cannot be written, is in use, is another recipe's, or holds
    somebody's own files, and PlatformError for a full disk.
    """
    run_dir = RunDir(path)
    _check_nothing_is_replaced(run_dir)
    lock_file = path / ".lock"
    try:
        run_dir.log.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file.open("a+", encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from None
    with lock:
        _lock(lock, path)
        _check_same_recipe(run_dir, recipe)
        write_text(run_dir.recipe, recipe.model_dump_json(indent=2) + "\n")
        yield Claim(run_dir, lock)


def read_recipe(run_dir: RunDir) -> Recipe:
    """The recipe of an existing run. Raises ConfigError."""
    return parse_recipe(_read_tree(run_dir), origin=str(run_dir.recipe))


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
    """Without a recipe it was not a run that wrote what is there."""
    if run_dir.recipe.exists():
        return
    taken = [name for name in _OURS if (run_dir.path / name).exists()]
    if taken:
        raise ConfigError(
            f"{run_dir.path} is no run directory (no recipe.json), and a run would replace "
            f"{', '.join(taken)} in it; name another --run-dir"
        )


def _check_same_recipe(run_dir: RunDir, recipe: Recipe) -> None:
    if not run_dir.recipe.exists():
        return
    there, here = _flat(_read_tree(run_dir)), _flat(recipe.model_dump(mode="json"))
    different = sorted(
        field
        for field in there.keys() | here.keys()
        if field != "description" and there.get(field, _ABSENT) != here.get(field, _ABSENT)
    )
    if different:
        shown = "\n".join(
            f"  {field}: {_show(there, field)} there, {_show(here, field)} here"
            for field in different[:NUM_SHOWN_DIFFERENCES]
        )
        more = len(different) - NUM_SHOWN_DIFFERENCES
        raise ConfigError(
            f"{run_dir.path} belongs to a run with other settings:\n{shown}\n"
            + (f"  and {more} more\n" if more > 0 else "")
            + "Use another --run-dir, or the same settings to continue that run"
        )


_ABSENT = object()


def _show(fields: Mapping[str, Any], field: str) -> str:
    return repr(fields[field]) if field in fields else "nothing"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            fields |= _flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _read_tree(run_dir: RunDir) -> dict[str, Any]:
    try:
        tree = json.loads(run_dir.recipe.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{run_dir.path} is not a run directory (no recipe.json); name one that "
            "`rlvr run` has written"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{run_dir.recipe} cannot be read ({error}); use another --run-dir"
        ) from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{run_dir.recipe} holds no recipe; use another --run-dir")
    return tree
