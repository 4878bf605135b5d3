"""Follow a job on SageMaker until it ends: its transitions, its log lines, its events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlvr_components.jobs.cluster.job_progress import JobProgress
from rlvr_components.jobs.job import JobStatus
from rlvr_components.sagemaker.aws_api import AwsApi, pause
from rlvr_components.sagemaker.aws_errors import JobMissing
from rlvr_components.sagemaker.cloudwatch_lines import CloudWatchLines
from rlvr_components.sagemaker.job_state import (
    CONTINUE,
    Job,
    bill_of,
    facts_of,
    has_ended,
    status_of,
    transitions,
)
from rlvr_components.sagemaker.sagemaker_jobs import describe, release_warm_pool
from rlvr_components.sagemaker.training_request import RUN_DIR
from rlvr_trainer.errors import EXIT_PREEMPTED, JobFailed, RLVRError

logger = logging.getLogger(__name__)

POLL_S = 5.0
QUIET_S = 10.0
"""Time without a new line after which the log of a job that has ended is complete."""
PROGRESS_S = 10.0
STOPPED = JobStatus(
    "failed", EXIT_PREEMPTED, f"it was stopped, and commits within two minutes; {CONTINUE}"
)
DELETED = JobStatus(
    "failed",
    JobFailed.exit_code,
    f"the job was deleted by someone else; start it again: {CONTINUE}",
)

OnEvent = Callable[[Mapping[str, Any]], None]


class JobFollower:
    """Follows one job: `lines` yields its lines; after them, `end` is its final status.

    As the job's launcher it also reports the events of the run directory, and releases the warm
    pool of a failed job.
    """

    def __init__(
        self,
        api: AwsApi,
        name: str,
        *,
        is_launcher: bool,
        on_event: OnEvent | None,
        is_stopped: Callable[[], bool],
        poll_s: float = POLL_S,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._api = api
        self._name = name
        self._is_launcher = is_launcher
        self._on_event = on_event
        self._is_stopped = is_stopped
        self._poll_s = poll_s
        self._quiet_s = quiet_s
        self._logs = CloudWatchLines(api, name)
        self._told: set[str] = set()
        self._progress: JobProgress | None = None
        self.end: JobStatus | None = None

    def lines(self) -> Iterator[str]:
        """Yield the lines of all hosts after their names, and notices about the job.

        Raises ConfigError, PlatformError.
        """
        try:
            yield from self._until_the_end()
            if self._progress:
                self._progress.finish(timeout_s=PROGRESS_S)
        except RLVRError:
            if not self._is_stopped():
                raise
            self.end = STOPPED  # a stop ends the patience with AWS
        finally:
            if self._progress:
                self._progress.finish(timeout_s=0.0)

    def _until_the_end(self) -> Iterator[str]:
        while not self._is_stopped():
            try:
                job = describe(self._api, self._name)
            except JobMissing:
                self.end = DELETED
                return
            self._start_progress(job)
            for text in transitions(job):
                if text not in self._told:
                    self._told.add(text)
                    yield f"[{self._name}] {text}"
            yield from self._logs.new_lines()
            if has_ended(job):
                yield from self._finish(job)
                return
            pause(self._poll_s, self._is_stopped)
        self.end = STOPPED

    def _finish(self, job: Job) -> Iterator[str]:
        """Yield the lines that arrive late, then what was billed."""
        self.end = status_of(job)
        quiet_since = time.monotonic()
        while job.get("TrainingStartTime") and not self._is_stopped():
            if time.monotonic() - quiet_since > self._quiet_s:
                break
            pause(min(self._poll_s, self._quiet_s), self._is_stopped)
            for line in self._logs.new_lines():
                quiet_since = time.monotonic()
                yield line
        if bill := bill_of(job):
            yield f"[{self._name}] {bill}"
        if self._is_launcher and self.end.phase == "failed":
            yield from self._release()

    def _release(self) -> Iterator[str]:
        """Release the warm pool of a failed job, which nothing else may use."""
        try:
            if release_warm_pool(self._api, self._name):
                yield f"[{self._name}] the warm pool is released"
        except RLVRError as error:
            logger.warning("the warm pool of %s may cost until its end: %s", self._name, error)

    def _start_progress(self, job: Job) -> None:
        run_dir = facts_of(job).get(RUN_DIR)
        if self._is_launcher and self._on_event and run_dir and not self._progress:
            self._progress = JobProgress(
                run_dir,
                annotate=lambda annotations: None,
                on_event=self._on_event,
                interval_s=min(PROGRESS_S, 2 * self._poll_s),
            )
            self._progress.start()
