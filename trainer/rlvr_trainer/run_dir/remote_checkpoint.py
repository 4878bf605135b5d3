"""Commit and fetch the checkpoints of a run directory in S3, which nodes with own disks write.

    checkpoints/
        step-10.attempt-1f0c9a2e/   files of all nodes, and COMMITTED.json
        step-20.attempt-77e0b3d4/   without a marker: incomplete, never read

Under ZeRO each node's disk holds the shards of its own ranks. Each node uploads what no node before
it has; rank 0 gathers the sizes and hashes and then writes the marker, which S3 creates once. Each
attempt has its own prefix, so files of two attempts never mix.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from rlvr_trainer.errors import CheckpointError, PlatformError, RLVRError
from rlvr_trainer.recipe.trajectory import TRAJECTORY, Trajectory, parse_trajectory
from rlvr_trainer.run_dir import checkpoint
from rlvr_trainer.run_dir.checkpoint import Checkpoint, Files
from rlvr_trainer.run_dir.layout import CHECKPOINTS
from rlvr_trainer.storage import Storage, safe_key
from rlvr_trainer.storage.atomic_files import disk_error

logger = logging.getLogger(__name__)

STEP_KEY = re.compile(rf"({CHECKPOINTS}/step-([0-9]+)(?:\.attempt-\w+)?)/")
MARKER_KEY = re.compile(rf"{STEP_KEY.pattern}{checkpoint.MARKER}$")

Gather = Callable[[Any], list[Any]]
"""A collective: takes the value of this process, returns those of all in the order of ranks."""


def upload(
    staged: Path,
    files: Files,
    storage: Storage,
    gather: Gather,
    *,
    rank: int,
    step: int,
    world_size: int,
) -> str:
    """Commit what the nodes staged, and return the checkpoint's folder; called by all processes.

    `files` describes `staged` in one process of each node and is empty in the others. Raises
    PlatformError or ConfigError on the node that cannot upload, and PlatformError on the others.
    """
    folder = f"{CHECKPOINTS}/step-{step}.attempt-{uuid4().hex[:8]}"
    gathered = gather((folder, files))
    folder = str(gathered[0][0])
    before = {name for _, others in gathered[:rank] for name in others}
    _together(gather, lambda: _upload_files(storage, staged, folder, files.keys() - before))
    every: dict[str, Any] = {}
    for _, others in gathered:
        every = {**others, **every}  # if two nodes have a file, that of the first counts
    marker = {
        "step": step,
        "world_size": world_size,
        "time": round(time.time(), 3),
        "files": every,
    }
    _together(gather, lambda: _put_marker(storage, folder, marker) if rank == 0 else None)
    return folder


def download_newest(storage: Storage, checkpoints: Path) -> Checkpoint | None:
    """Copy the newest valid checkpoint to `checkpoints`/step-N; None if nothing is committed.

    Damaged ones are skipped with a warning. Raises CheckpointError if all are damaged.
    """
    damaged = []
    for step, folder, marker in _committed(storage):
        target = checkpoints / f"step-{step}"
        try:
            return _download(storage, folder, marker, target)
        except CheckpointError as error:
            logger.warning("skipped: %s", error)
            damaged.append(folder.removeprefix(f"{CHECKPOINTS}/"))
            shutil.rmtree(target, ignore_errors=True)
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {storage.uri}/{CHECKPOINTS} is valid ({', '.join(damaged)} are "
            "damaged); restore one of them, or remove the folder to train from the start"
        )
    return None


def committed_step(storage: Storage) -> int:
    """Return the newest committed step of a run directory on a disk or in S3; 0 if none."""
    markers = (MARKER_KEY.match(key) for key in storage.list(CHECKPOINTS))
    return max((int(match[2]) for match in markers if match), default=0)


def newest_trajectory(storage: Storage) -> Trajectory | None:
    """Return the trajectory of the newest checkpoint, or None if nothing is committed.

    Raises CheckpointError, PlatformError.
    """
    for _, folder, _ in _committed(storage)[:1]:
        where = f"{storage.uri}/{folder}/{TRAJECTORY}"
        try:
            return parse_trajectory(
                storage.read_bytes(f"{folder}/{TRAJECTORY}").decode(), origin=where
            )
        except FileNotFoundError:
            raise CheckpointError(
                f"{where} does not exist, so what was trained is unknown; use another run directory"
            ) from None
    return None


def prune(storage: Storage, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and older incomplete ones.

    Errors are only logged, since the commit succeeded; the prune after the next one retries. An
    identity without permission to delete keeps all.
    """
    try:
        for key in _doomed(storage, keep):
            storage.delete(key)
    except (RLVRError, FileNotFoundError) as error:
        logger.warning("older checkpoints are kept: %s", error)


def _doomed(storage: Storage, keep: int) -> list[str]:
    """Return the keys to delete, in order."""
    committed = _committed(storage)
    kept = {folder for _, folder, _ in committed[:keep]}
    newest_step = committed[0][0] if committed else 0
    doomed = [
        key
        for key in storage.list(CHECKPOINTS)
        if (match := STEP_KEY.match(key)) and match[1] not in kept and int(match[2]) <= newest_step
    ]
    # markers first, so that a half-removed checkpoint does not count as damaged
    return sorted(doomed, key=lambda key: not key.endswith(f"/{checkpoint.MARKER}"))


def _upload_files(storage: Storage, staged: Path, folder: str, names: Iterable[str]) -> None:
    for name in sorted(names):
        storage.upload_file(staged / name, f"{folder}/{name}")


def _put_marker(storage: Storage, folder: str, marker: dict[str, Any]) -> None:
    text = json.dumps(marker, indent=1)
    if not storage.put_if_absent(f"{folder}/{checkpoint.MARKER}", text.encode()):
        raise PlatformError(f"{storage.uri}/{folder} was committed by another process")


def _together(gather: Gather, action: Callable[[], None]) -> None:
    """Run the action on every process, and raise on all if it failed on any."""
    error: RLVRError | None = None
    try:
        action()
    except RLVRError as caught:
        error = caught
    causes = [cause for cause in gather(str(error) if error else None) if cause]
    if error:
        raise error
    if causes:
        raise PlatformError(f"another node failed to commit a checkpoint: {causes[0]}")


def _committed(storage: Storage) -> list[tuple[int, str, bytes]]:
    """Return (step, folder, marker) of the committed checkpoints, newest first."""
    checkpoints = []
    for key in storage.list(CHECKPOINTS):
        match = MARKER_KEY.match(key)
        if match:
            marker = storage.read_bytes(key)
            checkpoints.append((int(match[2]), _time(marker), match[1], marker))
    return [(step, folder, marker) for step, _, folder, marker in sorted(checkpoints, reverse=True)]


def _time(marker: bytes) -> float:
    try:
        return float(json.loads(marker)["time"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _download(storage: Storage, folder: str, marker: bytes, target: Path) -> Checkpoint:
    shutil.rmtree(target, ignore_errors=True)
    try:
        names = list(json.loads(marker)["files"])
        for name in names:
            path = target / safe_key(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.download_file(f"{folder}/{name}", path)
        (target / checkpoint.MARKER).write_bytes(marker)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{storage.uri}/{folder}/{checkpoint.MARKER} is damaged ({error})"
        ) from None
    except FileNotFoundError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise disk_error(target, error) from error
    return checkpoint.verify(target)
