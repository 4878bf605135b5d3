"""Limits after which a launcher deletes a job. Pure: the caller passes the time.

Queueing and running have separate limits: a job that waited two days for its GPUs has not used up
its running time. The queue's limit applies again when a replica is lost. Failures of pods end a job
whose operator would replace the pods for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlvr_components.jobs.cluster.job_causes import PodFailure, pod_failure
from rlvr_components.jobs.cluster.pending import PendingReason
from rlvr_components.jobs.kinds import Kind, Object
from rlvr_components.jobs.pods import OUT_OF_MEMORY_ANNOTATION
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import JobFailed, PlatformError
from rlvr_trainer.launch.attempt_budget import MAX_OUT_OF_MEMORY
from rlvr_trainer.launch.exit_causes import (
    EXIT_NO_ATTEMPTS_LEFT,
    EXIT_OUT_OF_MEMORY,
    FIRST_SIGNAL_CODE,
)


@dataclass(frozen=True)
class Exceeded:
    """An exceeded limit: its message and the exit code."""

    cause: str
    exit_code: int


class Deadlines:
    """The limits of one job. All times are seconds since 1970."""

    def __init__(
        self, platform: Platform, *, created_at: float, running_since: float | None, now: float
    ) -> None:
        self._platform = platform
        self.running_since = running_since
        """Time when all replicas ran for the first time."""
        self._waiting_since: float | None = created_at if running_since is None else now
        self._grace_since: float | None = None
        self._cause = ""

    def check(
        self, *, is_running: bool, pending: PendingReason | None, now: float
    ) -> Exceeded | None:
        """Return the exceeded limit, if any; `is_running`: all replicas run."""
        if is_running:
            self.running_since = self.running_since or now
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        if pending:
            self._cause = pending.cause
        return self._grace(pending, now) or self._queue(pending, now) or self._run(now)

    def _grace(self, pending: PendingReason | None, now: float) -> Exceeded | None:
        if pending is None or pending.limit != "grace":
            self._grace_since = None
            return None
        self._grace_since = self._grace_since or now
        if now - self._grace_since < self._platform.start_grace_s:
            return None
        return Exceeded(pending.cause, pending.exit_code)

    def _queue(self, pending: PendingReason | None, now: float) -> Exceeded | None:
        limit_s = self._platform.queue_timeout_s
        if self._waiting_since is None or now - self._waiting_since < limit_s:
            return None
        code = pending.exit_code if pending else PlatformError.exit_code
        again = "again " if self.running_since else ""
        return Exceeded(
            f"not all replicas ran {again}within queue_timeout_s ({limit_s} s): "
            f"{self._cause or 'no reason is known'}; free capacity, ask for less, or raise it",
            code,
        )

    def _run(self, now: float) -> Exceeded | None:
        limit_s = self._platform.run_timeout_s
        if self.running_since is None or now - self.running_since < limit_s:
            return None
        return Exceeded(
            f"it ran for longer than run_timeout_s ({limit_s} s); raise it, or start it again to "
            "continue from the last checkpoint",
            JobFailed.exit_code,
        )


PERMANENT_S = 15.0
"""Time for the operator or the other pods to end a job whose container failed permanently."""


class PodFailures:
    """The failures of one job's pods; `job` holds those that an earlier launcher recorded."""

    def __init__(self, kind: Kind, job: Object) -> None:
        self._kind = kind
        self._by_pod: dict[str, PodFailure] = {}
        self._permanent_since: float | None = None
        recorded = (job["metadata"].get("annotations") or {}).get(OUT_OF_MEMORY_ANNOTATION, "")
        self._out_of_memory: list[str] = str(recorded).split()

    def note(self, pods: Sequence[Object]) -> Iterator[PodFailure]:
        """Note the failures of the pods, and yield the new ones."""
        for pod in pods:
            uid, failure = str(pod["metadata"]["uid"]), pod_failure(self._kind, pod)
            if failure is None or uid in self._by_pod:
                continue
            self._by_pod[uid] = failure
            key = f"{failure.replica}/{uid}"
            if failure.exit_code == EXIT_OUT_OF_MEMORY and key not in self._out_of_memory:
                self._out_of_memory.append(key)
            yield failure

    @property
    def last(self) -> PodFailure | None:
        """Return the newest failure."""
        return list(self._by_pod.values())[-1] if self._by_pod else None

    @property
    def annotations(self) -> dict[str, str]:
        """Return the annotations that the next launcher needs."""
        return (
            {OUT_OF_MEMORY_ANNOTATION: " ".join(self._out_of_memory)} if self._out_of_memory else {}
        )

    def exceeded(self, now: float) -> Exceeded | None:
        """Return the reason to delete a job that its operator would restart for ever.

        `now` is monotonic time.
        """
        per_replica = Counter(key.partition("/")[0] for key in self._out_of_memory)
        ooms = [
            failure for failure in self._by_pod.values() if failure.exit_code == EXIT_OUT_OF_MEMORY
        ]
        if ooms and per_replica[ooms[-1].replica] >= MAX_OUT_OF_MEMORY:
            return Exceeded(f"for the second time {ooms[-1]}", EXIT_NO_ATTEMPTS_LEFT)
        permanent = [
            failure for failure in self._by_pod.values() if failure.exit_code < FIRST_SIGNAL_CODE
        ]
        if not permanent or not self._kind.replaces_pods:  # the other pods may still commit
            return None
        if self._permanent_since is None:
            self._permanent_since = now
        if now - self._permanent_since < PERMANENT_S:
            return None
        return Exceeded(str(permanent[0]), permanent[0].exit_code)
