"""Launch, follow and stop jobs on SageMaker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rlvr_components.jobs.cluster.attempts import JobAttempt, next_attempt
from rlvr_components.jobs.job import JobSpec, JobStatus
from rlvr_components.jobs.pods import ATTEMPT_LABEL
from rlvr_components.sagemaker.aws_api import AwsApi
from rlvr_components.sagemaker.cloudwatch_lines import CloudWatchLines
from rlvr_components.sagemaker.job_following import POLL_S, QUIET_S, JobFollower, OnEvent
from rlvr_components.sagemaker.job_state import Job, facts_of, has_ended, status_of
from rlvr_components.sagemaker.sagemaker_jobs import (
    check_same_spec,
    create_or_find,
    describe,
    jobs_named,
    stop_job,
)
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_components.sagemaker.training_request import ATTEMPT, Request, render_request
from rlvr_trainer.errors import EXIT_PREEMPTED

STOP_PATIENCE_S = 20.0


class SageMakerBackend:
    """Runs jobs on SageMaker, in one region."""

    stop_signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self,
        settings: SageMaker,
        *,
        on_event: OnEvent | None = None,
        poll_s: float = POLL_S,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._settings = settings
        self._on_event = on_event
        self._poll_s, self._quiet_s = poll_s, quiet_s
        # plain flags: a signal handler sets them
        self._is_stopped = False
        self._submitting = ""
        self._api = AwsApi(settings.region, is_stopped=lambda: self._is_stopped)
        # a session of its own: the interrupted code may hold a lock of the other
        self._stop_api = AwsApi(settings.region, patience_s=STOP_PATIENCE_S)
        self._jobs: dict[str, Job] = {}
        """Jobs that this launcher has submitted or adopted."""
        self._final: dict[str, JobStatus] = {}

    @property
    def max_attempts(self) -> int:
        """Return the largest number of jobs that one launch starts."""
        return self._settings.max_attempts

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """Return the live or succeeded attempt, or a new one.

        A permanent failure stays permanent if the launch is automatic; a job that a limit stopped
        is continued by any launch. Raises JobFailed, ConfigError, PlatformError.
        """
        self._stop_api.prepare("sagemaker")
        jobs = list(jobs_named(self._api, f"{spec.name_of_all_attempts}-"))
        upcoming = next_attempt(
            [_attempt(job) for job in jobs],
            max_attempts=self._settings.max_attempts,
            is_retry=spec.is_automatic,
        )
        chosen = spec.with_attempt(upcoming.number)
        if upcoming.adopted:
            self._jobs[chosen.name] = upcoming.adopted["job"]
            self._submitting = chosen.name  # a signal before `submit` is for this job, too
        return chosen

    def render(self, spec: JobSpec) -> dict[str, Any]:
        """Render the request that `submit` sends. Pure. Raises ConfigError."""
        return render_request(spec, self._settings)

    def submit(self, rendered: Request) -> str:
        """Create the job, or adopt the one of its name; return its name.

        Raises ConfigError, PlatformError, JobFailed if it was stopped meanwhile.
        """
        name = str(rendered["TrainingJobName"])
        self._submitting = name
        try:
            if name in self._jobs:
                check_same_spec(rendered, self._jobs[name])
            else:
                self._jobs[name] = create_or_find(self._api, rendered, lambda: self._is_stopped)
        finally:
            self._submitting = ""
        return name

    def status(self, job: str) -> JobStatus:
        """Return the job's status. Raises ConfigError, PlatformError."""
        return self._final.get(job) or status_of(describe(self._api, job))

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """Yield the lines of all hosts after the host's name: `[algo-1] …`.

        Raises ConfigError, PlatformError.
        """
        if not follow:
            describe(self._api, job)
            yield from CloudWatchLines(self._api, job).new_lines()
            return
        follower = JobFollower(
            self._api,
            job,
            is_launcher=job in self._jobs,
            on_event=self._on_event,
            is_stopped=lambda: self._is_stopped,
            poll_s=self._poll_s,
            quiet_s=self._quiet_s,
        )
        yield from follower.lines()
        if follower.end:
            self._final[job] = follower.end

    def stop(self, job: str) -> None:
        """Ask the job to stop, if it runs; its containers get SIGTERM and commit.

        Safe in a signal handler: takes no lock that the interrupted code may hold.
        Raises ConfigError, PlatformError.
        """
        self._is_stopped = True
        name = job or self._submitting
        if name:
            stop_job(self._stop_api, name)

    def stop_earlier(self, spec: JobSpec) -> None:
        """Stop the job that an earlier launch of the spec left running, if any.

        Raises ConfigError, PlatformError.
        """
        for job in jobs_named(self._stop_api, f"{spec.name_of_all_attempts}-"):
            if not has_ended(job):
                self.stop(str(job["TrainingJobName"]))


def _attempt(job: Job) -> JobAttempt:
    """Return the job as an attempt; one that was stopped after a commit may be continued."""
    status, number = status_of(job), facts_of(job).get(ATTEMPT, "1")
    if status.phase == "failed" and status.exit_code == EXIT_PREEMPTED:
        status = replace(status, is_retried=True)
    return JobAttempt({"metadata": {"labels": {ATTEMPT_LABEL: number}}, "job": job}, status)
