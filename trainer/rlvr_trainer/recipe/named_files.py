"""Hash the files of this machine that a recipe names.

Rows, code and models can be edited or replaced under the same name. Their digests tell if what an
earlier attempt made from them is still valid, and if a copy elsewhere is the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from modulefinder import ModuleFinder
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr_trainer.recipe.row_source import local_files
from rlvr_trainer.storage.atomic_files import cache_dir, write_text

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

REMEMBERED_BYTES = 64 << 20
"""Digests of larger files are cached until the file changes."""


def file_digests(recipe: Recipe) -> dict[str, str]:
    """Return field → SHA-256 of the files that the recipe names on this machine.

    A folder counts with all its files, code with the modules beside it that it imports. The path
    of the files does not count.
    """
    files = {
        **{f"data.{split}": _file(getattr(recipe.data, split)) for split in ("train", "test")},
        "prompt.chat_template": _file(recipe.prompt.chat_template),
        "model.name": _model(recipe.model.name),
        **{field: _code(spec) for field, spec in code_fields(recipe).items()},
    }
    return {field: _digest(named) for field, named in files.items() if named}


def code_fields(recipe: Recipe) -> dict[str, str]:
    """Return field → `package.module:name` or `file.py:name` of the user's code."""
    functions = {
        f"rewards.{name}.function": reward.function
        for name, reward in recipe.user_functions.items()
    }
    fields = {"task": recipe.task, **functions}
    return {field: spec for field, spec in fields.items() if ":" in spec}


def imported_files(path: Path) -> dict[str, Path]:
    """Return name → file of the modules beside a Python file that it imports, also indirectly."""
    finder = ModuleFinder(path=[str(path.parent)])
    with suppress(SyntaxError, ValueError, OSError):  # loading it reports the error
        finder.run_script(str(path))
    files = {name: getattr(module, "__file__", None) for name, module in finder.modules.items()}
    return {name: Path(file) for name, file in files.items() if file and name != "__main__"}


def _file(source: str) -> dict[str, Path]:
    match local_files(source):
        case [path]:
            return {"": path}
        case paths:
            return {f"{index}-{path.name}": path for index, path in enumerate(paths)}


def _model(name: str) -> dict[str, Path]:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return {}
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path
        for path in files
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def _code(spec: str) -> dict[str, Path]:
    where = spec.rpartition(":")[0]
    if where.endswith(".py"):
        path = Path(where).expanduser().resolve()
        return {"": path, **imported_files(path)} if path.is_file() else {}
    return dict(_package(where))


def _package(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the files of the module's top-level package, without importing it."""
    try:
        spec = find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return
    for folder in map(Path, spec.submodule_search_locations or ()):
        yield from ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*.py"))
    if not spec.submodule_search_locations and spec.origin and Path(spec.origin).is_file():
        yield "", Path(spec.origin)


def _digest(files: Mapping[str, Path]) -> str:
    lines = (f"{name}\0{_file_digest(path)}\n" for name, path in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or the reason why it cannot be read."""
    try:
        stat = path.stat()
        if stat.st_size < REMEMBERED_BYTES:
            return _sha256(path)
        state = (os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        remembered = cache_dir() / "digests" / hashlib.sha256(repr(state).encode()).hexdigest()
        with suppress(OSError):
            return remembered.read_text("utf-8")
        digest = _sha256(path)
    except OSError as error:
        return str(error.strerror)
    with suppress(Exception):  # a cache that cannot be written costs time only
        write_text(remembered, digest)
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
