"""Commit, verify and prune the checkpoints of a run directory.

    checkpoints/
        step-10/            the files of transformers' Trainer, and COMMITTED.json
        step-20/
        .staging/           being written; never read

A checkpoint is written in `.staging`, its files are hashed, it is renamed to `step-N`, and then the
marker is written. The newest directory with a marker that its files match is the one to resume.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import CheckpointError, PlatformError
from rlvr_trainer.storage.atomic_files import write_durably
from rlvr_trainer.variables import VERIFIED_VARIABLE

logger = logging.getLogger(__name__)

MARKER = "COMMITTED.json"
STAGING = ".staging"
STEP_DIR = re.compile(r"step-([0-9]+)$")

Files = Mapping[str, Mapping[str, Any]]
"""Size and hash of each file of a checkpoint, as in its marker."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    path: Path
    step: int
    world_size: int


def commit(
    staged: Path,
    checkpoints: Path,
    *,
    step: int,
    world_size: int,
    files: Files | None = None,
) -> Checkpoint:
    """Turn the directory `staged` (on the same file system) into the checkpoint of `step`.

    `files` is what `describe` returned for it, if it was called. Raises PlatformError.
    """
    target = checkpoints / f"step-{step}"
    try:
        files = describe(staged) if files is None else files
        if target.exists():  # uncommitted, damaged, or the same step trained again
            shutil.rmtree(target)
        os.rename(staged, target)
        marker = {
            "step": step,
            "world_size": world_size,
            "files": files,
        }
        write_durably(target / MARKER, json.dumps(marker, indent=1))
    except OSError as error:
        raise PlatformError(
            f"checkpoint {target} cannot be written ({error.strerror}); earlier checkpoints are "
            "intact: free some space and run the same command again"
        ) from error
    return Checkpoint(target, step, world_size)


def newest(checkpoints: Path) -> Checkpoint | None:
    """Return the newest valid checkpoint, or None if nothing is committed yet.

    Damaged ones are skipped with a warning. Raises CheckpointError if all are damaged: training
    must not start from the beginning silently.
    """
    candidates = sorted(_step_dirs(checkpoints), reverse=True)
    damaged = []
    for step, path in candidates:
        try:
            return verify(path)
        except CheckpointError as error:
            logger.warning("skipped: %s", error)
            damaged.append(f"step-{step}")
    committed = [name for name in damaged if (checkpoints / name / MARKER).exists()]
    if committed:
        raise CheckpointError(
            f"no checkpoint in {checkpoints} is valid ({', '.join(committed)} are damaged); "
            "restore one of them, or remove the directory to train from the start"
        )
    return None


def to_resume(checkpoints: Path) -> Checkpoint | None:
    """Return the checkpoint that launch verified for this node, else `newest`."""
    verified = os.environ.get(VERIFIED_VARIABLE)
    if verified is None:
        return newest(checkpoints)
    return _read_marker(Path(verified))[0] if verified else None


def verify(path: Path) -> Checkpoint:
    """Check the files in `path` against the marker. Raises CheckpointError, PlatformError."""
    checkpoint, expected = _read_marker(path)
    for name, description in expected.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        if file.stat().st_size != description["bytes"] or _describe(file) != description:
            raise CheckpointError(f"{file} is not what was written")
    return checkpoint


def _read_marker(path: Path) -> tuple[Checkpoint, Files]:
    try:
        marker = json.loads((path / MARKER).read_text("utf-8"))
        checkpoint = Checkpoint(path, marker["step"], marker["world_size"])
        return checkpoint, dict(marker["files"])
    except FileNotFoundError:
        raise CheckpointError(f"{path} was never committed") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise passing_error(error) or CheckpointError(
            f"{path / MARKER} is damaged ({error})"
        ) from error


def describe(folder: Path) -> Files:
    """Return size and hash of each file below the folder."""
    return {path.relative_to(folder).as_posix(): _describe(path) for path in _files(folder)}


def newest_committed(checkpoints: Path) -> Path | None:
    """Return the newest directory with a marker; its files are not checked."""
    committed = [(step, path) for step, path in _step_dirs(checkpoints) if (path / MARKER).exists()]
    return max(committed)[1] if committed else None


def prune(checkpoints: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and everything uncommitted."""
    kept = 0
    for _, path in sorted(_step_dirs(checkpoints), reverse=True):
        committed = (path / MARKER).exists()
        if committed and kept < keep:
            kept += 1
            continue
        # its marker first, so that a half-removed one does not count as damaged
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def staging_dir(checkpoints: Path) -> Path:
    """Create an empty directory to write into, on the file system of the checkpoints."""
    staging = checkpoints / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def _step_dirs(checkpoints: Path) -> Iterator[tuple[int, Path]]:
    if checkpoints.is_dir():
        for path in checkpoints.iterdir():
            match = STEP_DIR.match(path.name)
            if match and path.is_dir():
                yield int(match[1]), path


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        return {"bytes": file.tell(), "sha256": digest}
