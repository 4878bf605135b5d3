"""Follow a job until it terminates: one loop over job, pods, events and log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from rlvr_components.jobs.cluster.attempts import (
    DELETED,
    forget_job,
    record_failure,
    try_to_record,
)
from rlvr_components.jobs.cluster.job_causes import NO_PODS_LEFT
from rlvr_components.jobs.cluster.job_progress import JobProgress
from rlvr_components.jobs.cluster.job_status import belongs, epoch, failed, runs_in_full
from rlvr_components.jobs.cluster.limits import Deadlines, Exceeded, PodFailures
from rlvr_components.jobs.cluster.pending import pending_reason
from rlvr_components.jobs.cluster.replica_logs import ReplicaLogs
from rlvr_components.jobs.cluster.snapshot import (
    WARNINGS,
    Snapshot,
    annotate,
    is_about,
    workloads_of,
)
from rlvr_components.jobs.job import JobStatus
from rlvr_components.jobs.kinds import Kind, Object
from rlvr_components.jobs.pods import (
    CAUSE_ANNOTATION,
    EXIT_CODE_ANNOTATION,
    RUN_DIR_ANNOTATION,
    RUNNING_SINCE_ANNOTATION,
)
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.kubernetes.watch import Collection
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import EXIT_PREEMPTED, PlatformError

logger = logging.getLogger(__name__)

OnEvent = Callable[[Mapping[str, Any]], None]

TICK_S = 0.2
LOOK_S = 1.0
"""Interval at which limits are checked while nothing changes."""
NOTICE_S = 5.0
"""Shortest interval between two notices of the same phase."""
DRAIN_S = 20.0
"""Time for the last lines of a job to arrive."""
SETTLE_S = 5.0
"""Time for the pods' failures to be seen after the job's: both are watched separately."""
KUEUE_INTERVAL_S = 15.0
OUTAGE_S = 1800.0
"""Time without an answer of the API server after which following fails."""

STOPPED = JobStatus(
    "failed",
    EXIT_PREEMPTED,
    "it was stopped; its pods commit a checkpoint before they terminate, and the "
    "same run resumes from it",
)


class Follower:
    """Follows one job: `lines` yields its lines; after them, `end` is its final status.

    With `platform` it acts as the job's launcher: it annotates the job with progress and causes,
    and deletes it if a limit is exceeded. Without, it only reads. `is_automatic`: the launch is
    retried, so deletions are recorded.
    """

    def __init__(
        self,
        api: KubernetesApi,
        kind: Kind,
        job: dict[str, Any],
        platform: Platform | None,
        *,
        on_event: OnEvent | None,
        is_stopped: Callable[[], bool],
        is_automatic: bool = False,
    ) -> None:
        self._api = api
        self._kind = kind
        self._job = job
        self._is_launcher = platform is not None
        self._is_stopped = is_stopped
        self._is_automatic = is_automatic
        self._has_changed = True
        self._jobs, self._pods, self._events = self._collections()
        self._logs = ReplicaLogs(api, kind, self._pods.objects)
        self._failures = PodFailures(kind, job)
        self._deadlines = _deadlines(job, platform) if platform else None
        self._progress = self._reader(on_event) if platform else None
        self._workloads: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._notice = ("", 0.0)
        self._failed_at: float | None = None
        self.end: JobStatus | None = None

    def lines(self) -> Iterator[str]:
        """Yield the lines of all replicas after their names, and notices about the job.

        Raises Refusal if the API server forbids it, PlatformError if it does not answer.
        """
        for collection in (self._jobs, self._pods, self._events):
            collection.start()
        if self._progress:
            self._progress.start()
        try:
            yield from self._until_the_end()
            if self._progress:
                self._progress.finish(timeout_s=DRAIN_S)
        finally:
            for closing in (self._jobs, self._pods, self._events, self._logs):
                closing.close()
            if self._progress:
                self._progress.finish(timeout_s=0.0)

    def _until_the_end(self) -> Iterator[str]:
        looked_at, drained_by = 0.0, float("inf")
        while True:
            yield from self._logs.take(TICK_S)
            now = time.monotonic()
            if self._is_stopped():
                if not self.end:
                    self.end = STOPPED
                    self._record(forget_job)
                return
            if self.end:
                drained_by = min(drained_by, now + DRAIN_S)
                if self._logs.is_complete or now > drained_by:
                    return
            elif self._has_changed or now - looked_at > LOOK_S:
                self._has_changed, looked_at = False, now
                for text in self._look():
                    yield f"[{self._job['metadata']['name']}] {text}"

    def _look(self) -> Iterator[str]:
        """Process changes; set `end` if the job terminated or was deleted."""
        self._check_api()
        if not (self._jobs.is_synced and self._pods.is_synced):
            return
        uid = self._job["metadata"]["uid"]
        jobs = [job for job in self._jobs.objects() if job["metadata"]["uid"] == uid]
        if not jobs:  # a new job of its name is another job
            if self._is_stopped():  # by a signal, just now
                return
            self._record(partial(record_failure, end=DELETED))
            self.end = DELETED
            yield "it was deleted by someone else"
            return
        self._job = jobs[0]
        pods = [pod for pod in self._pods.objects() if belongs(self._job, pod)]
        self._logs.follow(pods)
        for failure in self._failures.note(pods):
            yield f"{failure} (exit code {failure.exit_code})"
            self._annotate(self._failures.annotations)
        snapshot = Snapshot(self._kind, self._job, pods, self._events.objects(), self._kueue())
        status = snapshot.status
        if status.phase in ("succeeded", "failed"):
            self._take_end(snapshot, status)
            return
        yield from self._news(status)
        exceeded = self._exceeded(snapshot) if self._is_launcher else None
        if exceeded:
            yield f"{exceeded.cause}; the job is deleted"
            verdict = JobStatus("failed", exceeded.exit_code, exceeded.cause, status.replicas)
            self._record(partial(record_failure, end=verdict))
            self._delete()
            self.end = verdict

    def _check_api(self) -> None:
        for collection in (self._jobs, self._pods, self._events):
            if collection.error:
                raise collection.error
            if collection.down_since and time.monotonic() - collection.down_since > OUTAGE_S:
                raise PlatformError(
                    f"the API server did not answer for {OUTAGE_S:.0f} s ({collection.trouble}); "
                    f"job {self._job['metadata']['name']} continues, run it again to follow it"
                )

    def _take_end(self, snapshot: Snapshot, status: JobStatus) -> None:
        """Set `end`, for a failure once the failed pods were seen or SETTLE_S have passed."""
        if status.cause.endswith(NO_PODS_LEFT):
            now, last = time.monotonic(), self._failures.last
            self._failed_at = self._failed_at or now
            if last:
                status = failed(last.exit_code, str(last), status.replicas)
            elif now - self._failed_at < SETTLE_S:
                return
        self.end = status
        self._record(forget_job)
        if status.phase == "failed":
            self._annotate(
                {CAUSE_ANNOTATION: status.cause, EXIT_CODE_ANNOTATION: str(status.exit_code)}
            )

    def _exceeded(self, snapshot: Snapshot) -> Exceeded | None:
        """Return the limit for which the job has to be deleted, if any."""
        assert self._deadlines
        had_run = self._deadlines.running_since is not None
        kind, job, pods = snapshot.kind, snapshot.job, snapshot.pods
        exceeded = self._failures.exceeded(time.monotonic()) or self._deadlines.check(
            is_running=runs_in_full(kind, job, pods),
            pending=pending_reason(kind, job, pods, snapshot.events, snapshot.workloads),
            now=time.time(),
        )
        if not had_run and self._deadlines.running_since is not None:
            self._annotate({RUNNING_SINCE_ANNOTATION: f"{self._deadlines.running_since:.0f}"})
        return exceeded

    def _news(self, status: JobStatus) -> Iterator[str]:
        """Yield phase and cause if they changed."""
        text = f"{status.phase}: {status.cause}" if status.cause else status.phase
        reported, reported_at = self._notice
        is_same_phase = reported.partition(":")[0] == status.phase
        if text == reported or (is_same_phase and time.monotonic() - reported_at < NOTICE_S):
            return
        self._notice = (text, time.monotonic())
        yield text

    def _kueue(self) -> list[dict[str, Any]]:
        """Return the Kueue Workloads of a suspended job, at most KUEUE_INTERVAL_S old."""
        asked_at, workloads = self._workloads
        if not asked_at or time.monotonic() - asked_at > KUEUE_INTERVAL_S:
            workloads = workloads_of(self._api, self._kind, self._job)
            self._workloads = (time.monotonic(), workloads)
        return workloads if self._kind.is_suspended(self._job) else []

    def _delete(self) -> None:
        metadata = self._job["metadata"]
        path = self._kind.path(metadata["namespace"], metadata["name"])
        self._api.delete(path, uid=metadata["uid"])

    def _record(self, write: Callable[[Object], None]) -> None:
        """Write the job's record for the next attempt of an automatic launch."""
        if self._is_automatic:
            try_to_record(write, self._job)

    def _annotate(self, annotations: dict[str, str]) -> None:
        if self._is_launcher and annotations:
            annotate(self._api, self._kind, self._job, annotations)

    def _reader(self, on_event: OnEvent | None) -> JobProgress:
        run_dir = (self._job["metadata"].get("annotations") or {}).get(RUN_DIR_ANNOTATION, "")
        return JobProgress(
            run_dir, annotate=self._annotate, on_event=on_event or (lambda event: None)
        )

    def _collections(self) -> tuple[Collection, Collection, Collection]:
        namespace, name = self._job["metadata"]["namespace"], self._job["metadata"]["name"]
        core = f"/api/v1/namespaces/{namespace}"

        def changed() -> None:
            self._has_changed = True

        return (
            Collection(
                self._api,
                self._kind.path(namespace),
                {"fieldSelector": f"metadata.name={name}"},
                changed=changed,
            ),
            Collection(
                self._api,
                f"{core}/pods",
                {"labelSelector": f"{self._kind.job_label}={name}"},
                changed=changed,
            ),
            Collection(
                self._api,
                f"{core}/events",
                {"fieldSelector": WARNINGS},
                changed=changed,
                is_kept=lambda event: is_about(self._job, event),
            ),
        )


def _deadlines(job: Mapping[str, Any], platform: Platform) -> Deadlines:
    metadata = job["metadata"]
    since = (metadata.get("annotations") or {}).get(RUNNING_SINCE_ANNOTATION)
    return Deadlines(
        platform,
        created_at=epoch(metadata["creationTimestamp"]),
        running_since=float(since) if since else None,
        now=time.time(),
    )
