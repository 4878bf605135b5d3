"""Choose the next attempt of a job, from its jobs in the cluster and its run directory's record.

A failed job stays in the cluster with its cause. The final status of a deleted job (it exceeded a
limit, or a user deleted it) is recorded, so that Kubeflow's retry of the step does not start it
again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_components.jobs.cluster.job_status import attempt_of
from rlvr_components.jobs.job import JobSpec, JobStatus, JobSummary
from rlvr_components.jobs.kinds import Object
from rlvr_components.jobs.pods import ATTEMPT_LABEL, JOB_LABEL, RUN_DIR_ANNOTATION
from rlvr_trainer.errors import ConfigError, JobFailed, RLVRError
from rlvr_trainer.launch.attempt_budget import MAX_OUT_OF_MEMORY
from rlvr_trainer.launch.exit_causes import EXIT_NO_ATTEMPTS_LEFT, EXIT_OUT_OF_MEMORY
from rlvr_trainer.storage import open_storage

logger = logging.getLogger(__name__)

DELETED = JobStatus(
    "failed",
    JobFailed.exit_code,
    "the job was deleted by someone else (rlvr stop, kubectl delete, or its owner); start it again "
    "to continue from the last checkpoint",
)


@dataclass(frozen=True)
class JobAttempt:
    """One attempt of a job, with its status."""

    job: Object
    status: JobStatus

    @property
    def number(self) -> int:
        """Return the attempt's number, from 1."""
        return attempt_of(self.job)

    @property
    def is_terminating(self) -> bool:
        """Return True if the job is being deleted."""
        return "deletionTimestamp" in self.job["metadata"]


@dataclass(frozen=True)
class NextAttempt:
    """The attempt to submit; `adopted` is its job if that exists already."""

    number: int
    adopted: Object | None = None


def next_attempt(
    attempts: Sequence[JobAttempt], *, max_attempts: int, is_retry: bool
) -> NextAttempt:
    """Return the live or succeeded attempt, or the one after the last failure. Pure.

    With `is_retry` the same launch is retried, and permanent failures stay permanent; without, a
    user starts the job again and gets another attempt. Raises JobFailed for a permanent failure.
    """
    present = [attempt for attempt in attempts if not attempt.is_terminating]
    for attempt in sorted(present, key=lambda attempt: -attempt.number):
        if attempt.status.phase != "failed":
            return NextAttempt(attempt.number, adopted=attempt.job)
    highest = max((attempt.number for attempt in attempts), default=0)
    if present and is_retry and (spent := spent_by(present, max_attempts=max_attempts)):
        raise JobFailed(spent.cause, exit_code=spent.exit_code)
    return NextAttempt(highest + 1)


def spent_by(attempts: Sequence[JobAttempt], *, max_attempts: int) -> JobStatus | None:
    """Return the failure that permits no further attempt; None if another is permitted. Pure."""
    last = max(attempts, key=lambda attempt: attempt.number).status
    if last.phase != "failed":
        return None
    if not last.is_retried:
        return last
    codes = [attempt.status.exit_code for attempt in attempts]
    if codes.count(EXIT_OUT_OF_MEMORY) >= MAX_OUT_OF_MEMORY:
        return JobStatus("failed", EXIT_NO_ATTEMPTS_LEFT, f"for the second time {last.cause}")
    if len(attempts) >= max_attempts:
        return JobStatus(
            "failed",
            EXIT_NO_ATTEMPTS_LEFT,
            f"{len(attempts)} jobs (max_attempts {max_attempts}) failed; the last: {last.cause}",
        )
    return None


def try_to_record(write: Callable[[Object], None], job: Object) -> None:
    """Write the job's record; a failure is only logged, so that the job is still followed."""
    try:
        write(job)
    except (RLVRError, OSError) as error:
        logger.warning(
            "a retry may start %s again after its deletion, since its record was not written: %s",
            job["metadata"]["name"],
            error,
        )


def record_submission(job: Object) -> None:
    """Record the job in its run directory, so that a retry notices its deletion.

    Raises ConfigError, PlatformError.
    """
    _write_record(job, {})


def record_failure(job: Object, end: JobStatus) -> None:
    """Record the failure of a job that is deleted. Raises ConfigError, PlatformError."""
    _write_record(job, {"exit_code": end.exit_code, "cause": end.cause})


def forget_job(job: Object) -> None:
    """Remove the job's record. Raises ConfigError, PlatformError."""
    metadata = job["metadata"]
    storage = open_storage(metadata["annotations"][RUN_DIR_ANNOTATION])
    storage.delete(_key(metadata["labels"][JOB_LABEL]))


def forget_deletion(job: JobSummary) -> None:
    """Remove the record of a job that the run itself deletes; a failure is only logged."""
    if not job.run_dir:
        return
    try:
        open_storage(job.run_dir).delete(_key(job.name.removesuffix(f"-{job.attempt}")))
    except (RLVRError, OSError) as error:
        logger.warning("a retry may refuse to start %s again: %s", job.name, error)


def recorded_attempt(spec: JobSpec) -> JobAttempt | None:
    """Return the recorded attempt as a permanent failure, for a job that no longer exists.

    Raises ConfigError, PlatformError.
    """
    storage, key = open_storage(spec.run_dir), _key(spec.name_of_all_attempts)
    where = f"{storage.uri}/{key}"
    try:
        tree = json.loads(storage.read_bytes(key))
        number = int(tree["attempt"])
        exit_code = int(tree.get("exit_code", DELETED.exit_code))
        cause = tree.get("cause", DELETED.cause)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{where} is damaged ({error!r}); remove it to start the job again"
        ) from None
    cause = f"{cause} (in an earlier attempt of this step; start a new run, or remove {where})"
    return JobAttempt(
        {"metadata": {"labels": {ATTEMPT_LABEL: str(number)}}},
        JobStatus("failed", exit_code, cause),
    )


def _write_record(job: Object, end: dict[str, Any]) -> None:
    metadata = job["metadata"]
    tree = {"attempt": attempt_of(job), **end, "time": round(time.time(), 3)}
    storage = open_storage(metadata["annotations"][RUN_DIR_ANNOTATION])
    storage.write_bytes(_key(metadata["labels"][JOB_LABEL]), json.dumps(tree, indent=1).encode())


def _key(name_of_all_attempts: str) -> str:
    return f"jobs/{name_of_all_attempts}.json"
