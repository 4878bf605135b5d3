"""Launch, follow and stop jobs as custom resources of one kind; find and delete jobs."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

from rlvr_components.jobs.cluster.attempts import (
    JobAttempt,
    next_attempt,
    record_submission,
    recorded_attempt,
    spent_by,
    try_to_record,
)
from rlvr_components.jobs.cluster.following import Follower, OnEvent
from rlvr_components.jobs.cluster.job_status import attempt_of, status_of
from rlvr_components.jobs.cluster.replica_logs import container_of
from rlvr_components.jobs.cluster.snapshot import summaries, take_snapshot
from rlvr_components.jobs.cluster.submission import check_permissions, create_or_find
from rlvr_components.jobs.job import JobSpec, JobStatus, JobSummary
from rlvr_components.jobs.kinds import (
    KINDS,
    ClusterPlace,
    Kind,
    Object,
    kind_of,
    known_overrides,
    render_job,
)
from rlvr_components.jobs.pods import (
    JOB_LABEL,
    PART_OF,
    PART_OF_LABEL,
    PIPELINE_RUN_LABEL,
    RUN_LABEL,
    STEP_LABEL,
)
from rlvr_components.jobs.trainjob import NEWEST_OVERRIDES, OverridesField
from rlvr_components.kubernetes.access import ApiServerAccess, find_access
from rlvr_components.kubernetes.api_errors import ObjectNotFound
from rlvr_components.kubernetes.client import PATIENCE_S, KubernetesApi
from rlvr_components.kubernetes.container_logs import lines_so_far
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError

CUSTOM_COLUMNS = (
    "kubectl get pytorchjobs -l app.kubernetes.io/part-of=rlvr -o custom-columns="
    r"'NAME:.metadata.name,STEP:.metadata.annotations.rlvr\.dev/step,"
    r"REWARD:.metadata.annotations.rlvr\.dev/reward,PHASE:.metadata.annotations.rlvr\.dev/phase'"
)
"""A command that shows progress without rlvr."""

STOP_PATIENCE_S = 20.0
ASK_PATIENCE_S = 5.0
"""Patience with the API server while a user waits at a terminal."""


def open_backend(
    place: ClusterPlace,
    platform: Platform,
    *,
    context: str | None = None,
    on_event: OnEvent | None = None,
) -> ClusterBackend:
    """Return the backend for the kubeconfig's `context`, or for this pod's cluster.

    `on_event` gets every event of the run directory's metrics.jsonl while a job is followed.
    Raises ConfigError, PlatformError.
    """
    kind, access = kind_of(place), find_access(context)
    overrides = known_overrides(KubernetesApi(access), kind)
    return ClusterBackend(kind, platform, access, overrides=overrides, on_event=on_event)


def find_jobs(
    *,
    namespace: str = "",
    context: str | None = None,
    run: str | None = None,
    run_id: str | None = None,
    job: str | None = None,
) -> list[JobSummary]:
    """Return the jobs of rlvr of any kind, newest first; with `job`, the one of that name.

    An empty namespace stands for the context's own. Raises ConfigError, PlatformError.
    """
    access = find_access(context)
    api = _asking(access)
    labels = {PART_OF_LABEL: PART_OF, RUN_LABEL: run, PIPELINE_RUN_LABEL: run_id}
    jobs = summaries(
        api,
        namespace or access.namespace,
        ",".join(f"{label}={value}" for label, value in labels.items() if value),
        name=job or "",
    )
    return sorted(jobs, key=lambda job: (job.created, job.name), reverse=True)


def delete_jobs(jobs: Sequence[JobSummary], *, context: str | None = None) -> list[JobSummary]:
    """Delete the jobs and their dependents; return those that existed.

    Raises ConfigError, PlatformError.
    """
    api = _asking(find_access(context))
    paths = {kind.name: kind.path for kind in KINDS.values()}
    return [job for job in jobs if api.delete(paths[job.kind](job.namespace, job.name))]


def _asking(access: ApiServerAccess) -> KubernetesApi:
    """Return an API that waits for a restarting server in a pod, but not while a user waits."""
    return KubernetesApi(access, patience_s=PATIENCE_S if access.in_pod else ASK_PATIENCE_S)


class ClusterBackend:
    """Runs jobs as custom resources of one kind in one namespace.

    `overrides` is the TrainJob's field that the API server knows, for rendering.
    """

    stop_signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self,
        kind: Kind,
        platform: Platform,
        access: ApiServerAccess,
        *,
        overrides: OverridesField = NEWEST_OVERRIDES,
        on_event: OnEvent | None = None,
    ) -> None:
        self._kind = kind
        self._platform = platform
        self._on_event = on_event
        self._namespace = platform.namespace or access.namespace
        # plain flags: a signal handler sets them while its own thread may wait for an event
        self._is_stopped = False
        self._submitting = ""
        self._api = KubernetesApi(access, lambda: self._is_stopped)
        self._stop_api = KubernetesApi(access)
        self._overrides = overrides
        self._is_permitted = False
        self._first_attempts: dict[str, int] = {}
        self._automatic: set[str] = set()
        """Names of jobs whose launch Kubeflow retries."""
        self._jobs: dict[str, dict[str, Any]] = {}
        """Jobs that this launcher has submitted or adopted."""
        self._final: dict[str, JobStatus] = {}

    @property
    def max_attempts(self) -> int:
        """Return the largest number of jobs that one launch starts."""
        return self._platform.max_attempts

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """Return the live or succeeded attempt, or a new one.

        A permanent failure stays permanent if the launch is automatic.
        Raises JobFailed, ConfigError, PlatformError.
        """
        if not self._is_permitted:
            check_permissions(self._api, self._kind, self._namespace)
            self._is_permitted = True
        upcoming = next_attempt(
            self._attempts(spec),
            max_attempts=self._platform.max_attempts,
            is_retry=spec.is_automatic,
        )
        self._first_attempts.setdefault(
            spec.name_of_all_attempts, 1 if spec.is_automatic else upcoming.number
        )
        chosen = spec.with_attempt(upcoming.number)
        if spec.is_automatic:
            self._automatic.add(chosen.name)
        if upcoming.adopted:
            self._jobs[chosen.name] = dict(upcoming.adopted)
            self._submitting = chosen.name  # a signal before `submit` is for this job, too
        return chosen

    def render(self, spec: JobSpec) -> dict[str, Any]:
        """Render the object that `submit` sends. Pure. Raises ConfigError."""
        platform = self._platform.model_copy(update={"namespace": self._namespace})
        return render_job(self._kind.place, spec, platform, self._overrides)

    def submit(self, rendered: dict[str, Any]) -> str:
        """Create the job, or adopt the one of its name; return its name.

        Raises ConfigError, PlatformError, JobFailed if it was stopped meanwhile.
        """
        name = str(rendered["metadata"]["name"])
        self._submitting = name
        try:
            if name not in self._jobs:
                self._jobs[name] = create_or_find(
                    self._api, self._kind, rendered, lambda: self._is_stopped
                )
        finally:
            self._submitting = ""
        if name in self._automatic:
            try_to_record(record_submission, self._jobs[name])
        return name

    def status(self, job: str) -> JobStatus:
        """Return the job's status. Raises ConfigError, PlatformError."""
        if job in self._final:
            return self._final[job]
        return take_snapshot(self._api, self._kind, self._get(job)).status

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """Yield the lines of all replicas after the replica's name: `[worker-1] …`.

        Raises ConfigError, PlatformError.
        """
        if not follow:
            pods = take_snapshot(self._api, self._kind, self._get(job)).pods
            containers = (container_of(self._kind, pod) for pod in pods)
            yield from lines_so_far(self._api, [container for container in containers if container])
            return
        own = self._jobs.get(job)
        follower = Follower(
            self._api,
            self._kind,
            own or self._get(job),
            self._platform if own else None,
            on_event=self._on_event,
            is_stopped=lambda: self._is_stopped,
            is_automatic=job in self._automatic,
        )
        yield from follower.lines()
        if follower.end:
            self._final[job] = self._spent(follower.end, own) if own else follower.end

    def stop(self, job: str) -> None:
        """Delete the job, if it exists; its pods get SIGTERM and commit.

        Safe in a signal handler: takes no lock that the interrupted code may hold.
        Raises ConfigError, PlatformError.
        """
        self._is_stopped = True
        name = job or self._submitting
        if name:
            known = self._jobs.get(name)
            uid = str(known["metadata"]["uid"]) if known else ""
            path = self._kind.path(self._namespace, name)
            self._stop_api.delete(path, uid=uid, patience_s=STOP_PATIENCE_S)

    def stop_earlier(self, spec: JobSpec) -> None:
        """Stop the job that an earlier launch of the spec left running, if any.

        Raises ConfigError, PlatformError.
        """
        for attempt in self._attempts(spec):
            if attempt.status.phase in ("pending", "running") and not attempt.is_terminating:
                self.stop(str(attempt.job["metadata"]["name"]))

    def _attempts(self, spec: JobSpec) -> list[JobAttempt]:
        jobs = self._list(f"{JOB_LABEL}={spec.name_of_all_attempts}")
        attempts = [JobAttempt(job, self._status_of(job)) for job in jobs]
        if not attempts:
            self._check_no_other(spec)
        kept = recorded_attempt(spec) if spec.is_automatic else None
        # the record matters only for a job that no longer exists
        if kept and all(
            attempt.number < kept.number or attempt.is_terminating for attempt in attempts
        ):
            attempts.append(kept)
        return attempts

    def _check_no_other(self, spec: JobSpec) -> None:
        """Raise ConfigError if another job of the run has the same step and thus run directory."""
        if not spec.run_id:
            return
        for job in self._list(f"{PIPELINE_RUN_LABEL}={spec.run_id},{STEP_LABEL}={spec.step}"):
            is_terminating = "deletionTimestamp" in job["metadata"]
            if not is_terminating and self._status_of(job).phase in ("pending", "running"):
                name = job["metadata"]["name"]
                raise ConfigError(
                    f"job {name} still runs this step with the settings that the run had before; "
                    f"stop it (`rlvr stop {name}`), or continue with those settings"
                )

    def _status_of(self, job: dict[str, Any]) -> JobStatus:
        """Return the status, from the job alone unless it failed."""
        alone = status_of(self._kind, job, ())
        if alone.phase != "failed":
            return alone
        return take_snapshot(self._api, self._kind, job).status

    def _spent(self, end: JobStatus, job: Object) -> JobStatus:
        """Return the final status: not to be retried if the budget is spent."""
        if end.phase != "failed" or not end.is_retried:
            return end
        label = str(job["metadata"]["labels"][JOB_LABEL])
        before = [
            JobAttempt(earlier, self._status_of(earlier))
            for earlier in self._list(f"{JOB_LABEL}={label}")
            if self._first_attempts.get(label, 1) <= attempt_of(earlier) < attempt_of(job)
        ]
        attempts = [*before, JobAttempt(job, end)]
        return spent_by(attempts, max_attempts=self._platform.max_attempts) or end

    def _list(self, selector: str) -> list[dict[str, Any]]:
        listing = self._api.list(self._kind.path(self._namespace), {"labelSelector": selector})
        jobs: list[dict[str, Any]] = listing["items"]
        return jobs

    def _get(self, job: str) -> dict[str, Any]:
        try:
            return self._api.get(self._kind.path(self._namespace, job))
        except ObjectNotFound:
            raise ConfigError(
                f"{self._kind.name} {job!r} does not exist in namespace {self._namespace}; "
                "`rlvr status` lists the jobs"
            ) from None
