"""Keep the budget of attempts in the run directory.

The operator restarts a pod after every exit code from 128 up and does not count. So each node
records its attempts (`attempts.json`; `attempts-node-R.json` on the others) when they begin, since
a killed one cannot write its end.

A permanent failure ends a job: later attempts were started by the user and count from 0 again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from rlvr_trainer.errors import CheckpointError
from rlvr_trainer.launch.exit_causes import (
    EXIT_NO_ATTEMPTS_LEFT,
    EXIT_OUT_OF_MEMORY,
    RETRIED,
    End,
)
from rlvr_trainer.run_dir.layout import ATTEMPTS
from rlvr_trainer.storage import Storage

DEFAULT_MAX_ATTEMPTS = 5
MAX_OUT_OF_MEMORY = 2
UNKNOWN_END = "ended without a record: killed, or its node was lost"


@dataclass(frozen=True)
class PodAttempt:
    """An attempt of one pod."""

    time: float
    """Start, in seconds since 1970."""
    step: int
    """The newest committed step at its end (while it runs: at its start)."""
    exit_code: int | None = None
    """None while it runs, or if it was killed."""
    cause: str = UNKNOWN_END


class Attempts:
    """The record of one node's attempts."""

    def __init__(self, storage: Storage, node_rank: int, *, max_attempts: int) -> None:
        self._storage = storage
        self._key = ATTEMPTS if node_rank == 0 else f"attempts-node-{node_rank}.json"
        self._max_attempts = max_attempts
        self._earlier: list[PodAttempt] = []
        self._current: PodAttempt | None = None

    def begin(self, step: int) -> End | None:
        """Record the start of an attempt at the committed step; return an End if none is left."""
        self._earlier = self._read()
        if self._earlier and self._earlier[-1].exit_code is None:  # it may have committed more
            self._earlier[-1] = replace(self._earlier[-1], step=step)
        self._current = PodAttempt(time=round(time.time(), 3), step=step)
        exhausted = spent(self._earlier, self._max_attempts)
        if exhausted is None:
            self._write([*self._earlier, self._current])
        return exhausted

    def end(self, end: End, step: int) -> End:
        """Record the end and return it, or a permanent one if this was the last attempt."""
        if self._current is None:
            return end
        ended = replace(self._current, step=step, exit_code=end.exit_code, cause=end.cause)
        last = spent([*self._earlier, ended], self._max_attempts) if end.is_retried else None
        if last:
            ended = replace(ended, exit_code=last.exit_code, cause=last.cause)
        self._write([*self._earlier, ended])
        return last or end

    def _read(self) -> list[PodAttempt]:
        try:
            content = self._storage.read_bytes(self._key)
        except FileNotFoundError:
            return []
        try:
            return [PodAttempt(**attempt) for attempt in json.loads(content)]
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self._storage.uri}/{self._key} is damaged ({error}); remove it to "
                "count from 0 again"
            ) from None

    def _write(self, attempts: Sequence[PodAttempt]) -> None:
        content = json.dumps([asdict(attempt) for attempt in attempts], indent=1)
        self._storage.write_bytes(self._key, content.encode())


def spent(attempts: Sequence[PodAttempt], max_attempts: int) -> End | None:
    """Return a permanent end if no attempt is left, else None.

    That is after `max_attempts` failures in a row without a new commit, and after the second one
    that ran out of memory.
    """
    job = _of_this_job(attempts)
    ooms = [attempt for attempt in job if attempt.exit_code == EXIT_OUT_OF_MEMORY]
    if len(ooms) >= MAX_OUT_OF_MEMORY:
        return End(EXIT_NO_ATTEMPTS_LEFT, f"for the second time {ooms[-1].cause}")
    num_stuck = _num_stuck(attempts, len(job))
    if num_stuck >= max_attempts:
        return End(
            EXIT_NO_ATTEMPTS_LEFT,
            f"{num_stuck} attempts (--max-attempts {max_attempts}) failed without a commit after "
            f"step {job[-1].step}; the last: {job[-1].cause}",
        )
    return None


def _of_this_job(attempts: Sequence[PodAttempt]) -> Sequence[PodAttempt]:
    """Return the attempts after the last permanent failure."""
    for index in range(len(attempts), 0, -1):
        if attempts[index - 1].exit_code not in {None, *RETRIED}:
            return attempts[index:]
    return attempts


def _num_stuck(attempts: Sequence[PodAttempt], num_of_job: int) -> int:
    """Count the last attempts of the job that did not commit a new step."""
    steps = [0, *(attempt.step for attempt in attempts)]
    for count in range(num_of_job):
        if steps[-1 - count] > steps[-2 - count]:
            return count
    return num_of_job
