"""Record how each rank of a training ended, for the process that started it.

torchrun ends with 1 for every failure. So a rank that `launch` started writes a file to the folder
RLVR_RANK_ENDS with its exit code and cause, and if it only failed because another rank was gone.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rlvr_trainer.error_mapping import is_peer_failure, to_rlvr_error
from rlvr_trainer.errors import EXIT_PREEMPTED
from rlvr_trainer.storage.atomic_files import write_durably
from rlvr_trainer.variables import RANK_ENDS_VARIABLE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankEnd:
    """The end of a rank; a killed rank does not record one."""

    rank: int
    exit_code: int
    cause: str
    is_peer_failure: bool = False


def was_launched() -> bool:
    """Return True if `launch` started this process."""
    return bool(os.environ.get(RANK_ENDS_VARIABLE))


def record_error(error: BaseException) -> None:
    """Record why this rank fails, if `launch` started it."""
    cause = to_rlvr_error(error)
    _write(RankEnd(_rank(), cause.exit_code, str(cause), is_peer_failure(error)))


def record_preempted() -> None:
    """Record that this rank stopped on a signal, after all ranks had committed a step."""
    _write(RankEnd(_rank(), EXIT_PREEMPTED, "stopped by a signal after a commit"))


def read_rank_ends(folder: Path) -> list[RankEnd]:
    """Return the records of this node's ranks, by rank; damaged files are skipped."""
    return sorted(_read(folder), key=lambda end: end.rank)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _write(end: RankEnd) -> None:
    """Write a record; errors are only logged, since they would hide the cause."""
    folder = os.environ.get(RANK_ENDS_VARIABLE)
    if not folder:
        return
    try:
        write_durably(Path(folder) / f"rank-{end.rank}.json", json.dumps(asdict(end)))
    except OSError as error:
        logger.warning("not recorded for launch: %s (%s)", end.cause, error)


def _read(folder: Path) -> Iterator[RankEnd]:
    for path in folder.glob("rank-*.json"):
        try:
            yield RankEnd(**json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError):
            continue
