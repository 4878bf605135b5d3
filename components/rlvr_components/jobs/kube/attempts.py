"""Which attempt of a job comes next, from those that there are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlvr_components.jobs import JobStatus
from rlvr_components.jobs.kube.kinds import Object
from rlvr_components.jobs.kube.status import attempt_of
from rlvr_trainer.errors import JobFailed
from rlvr_trainer.launch.attempts import MAX_OUT_OF_MEMORY
from rlvr_trainer.launch.causes import EXIT_NO_ATTEMPTS_LEFT, EXIT_OUT_OF_MEMORY


@dataclass(frozen=True)
class Attempt:
    """An attempt that there is: the job and where it stands."""

    job: Object
    status: JobStatus

    @property
    def number(self) -> int:
        """From 1."""
        return attempt_of(self.job)

    @property
    def is_going(self) -> bool:
        """Whether it is being deleted."""
        return "deletionTimestamp" in self.job["metadata"]


@dataclass(frozen=True)
class Next:
    """The attempt to submit; with `adopted`, the job that it is already."""

    number: int
    adopted: Object | None = None
    after: str = ""
    """The cause of the one before it."""


def next_attempt(attempts: Sequence[Attempt], *, max_attempts: int, is_retry: bool) -> Next:
    """Adopt the one that lives or has succeeded; after a failed one the next.

    `is_retry` says that the same start is tried again, so that what was permanent still is; else
    somebody starts it once more and wants another attempt.
    Raises JobFailed for a failure that stays one.
    """
    there = [each for each in attempts if not each.is_going]
    for each in sorted(there, key=lambda each: -each.number):
        if each.status.phase != "failed":
            return Next(each.number, adopted=each.job)
    highest = max((each.number for each in attempts), default=0)
    if not there:
        return Next(highest + 1)
    last = max(there, key=lambda each: each.number)
    if is_retry:
        spent = spent_by(there, max_attempts=max_attempts)
        if spent:
            raise JobFailed(spent.cause, exit_code=spent.exit_code)
    return Next(highest + 1, after=last.status.cause)


def spent_by(attempts: Sequence[Attempt], *, max_attempts: int) -> JobStatus | None:
    """The failure after which no attempt is made; None when another one may be."""
    last = max(attempts, key=lambda each: each.number).status
    if last.phase != "failed":
        return None
    if not last.is_retried:
        return last
    codes = [each.status.exit_code for each in attempts]
    if codes.count(EXIT_OUT_OF_MEMORY) >= MAX_OUT_OF_MEMORY:
        return JobStatus("failed", EXIT_NO_ATTEMPTS_LEFT, f"for the second time {last.cause}")
    if len(attempts) >= max_attempts:
        return JobStatus(
            "failed",
            EXIT_NO_ATTEMPTS_LEFT,
            f"{len(attempts)} jobs (max_attempts {max_attempts}) failed; the last: {last.cause}",
        )
    return None
