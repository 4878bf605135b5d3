"""How each rank of a training ended, written down for the process that started it.

torchrun ends with 1 whatever its children end with. So a rank that `launch` started (RLVR_RANK_ENDS
names a folder) leaves a file there with its exit code and cause, and whether it only followed
another rank that had died.
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
    """How one rank ended; a rank that was killed leaves none."""

    rank: int
    exit_code: int
    cause: str
    is_peer_failure: bool = False


def was_launched() -> bool:
    """Whether this process is a rank that `launch` reads the end of."""
    return bool(os.environ.get(RANK_ENDS_VARIABLE))


def record_error(error: BaseException) -> None:
    """Write down why this rank fails; does nothing where no launch asked for it."""
    cause = to_rlvr_error(error)
    _write(RankEnd(_rank(), cause.exit_code, str(cause), is_peer_failure(error)))


def record_preempted() -> None:
    """Write down that this rank stopped on a signal, after all ranks had committed a step."""
    _write(RankEnd(_rank(), EXIT_PREEMPTED, "stopped by a signal after a commit"))


def read_rank_ends(folder: Path) -> list[RankEnd]:
    """What the ranks of this node wrote, by rank; a damaged file counts as none."""
    return sorted(_read(folder), key=lambda end: end.rank)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _write(end: RankEnd) -> None:
    """Never raises: that would take the place of the cause, and of its exit code."""
    folder = os.environ.get(RANK_ENDS_VARIABLE)
    if not folder:
        return
    try:
        write_durably(Path(folder) / f"rank-{end.rank}.json", json.dumps(asdict(end)))
    except OSError as error:
        logger.warning("launch is not told that %s: %s", end.cause, error)


def _read(folder: Path) -> Iterator[RankEnd]:
    for path in folder.glob("rank-*.json"):
        try:
            yield RankEnd(**json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError):
            continue
