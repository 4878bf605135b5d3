"""Limits after which a launcher deletes a job. Pure: the caller passes the time.

Time in the queue and time of running have limits of their own: a job that waited two days for its
GPUs has not used up its run. The queue's limit holds again when a replica is lost. And failures of
pods end the job where its operator would replace them for ever.
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

    def check(self, *, is_running: bool, wait: PendingReason | None, now: float) -> Exceeded | None:
        """Return the exceeded limit, if any, given how the job stands now."""
        if is_running:
            self.running_since = self.running_since or now
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        if wait:
            self._cause = wait.cause
        return self._grace(wait, now) or self._queue(wait, now) or self._run(now)

    def _grace(self, wait: PendingReason | None, now: float) -> Exceeded | None:
        if wait is None or wait.limit != "grace":
            self._grace_since = None
            return None
        self._grace_since = self._grace_since or now
        if now - self._grace_since < self._platform.start_grace_s:
            return None
        return Exceeded(wait.cause, wait.exit_code)

    def _queue(self, wait: PendingReason | None, now: float) -> Exceeded | None:
        limit_s = self._platform.queue_timeout_s
        if self._waiting_since is None or now - self._waiting_since < limit_s:
            return None
        code = wait.exit_code if wait else PlatformError.exit_code
        again = "again " if self.running_since else ""
        return Exceeded(
            f"not all replicas ran {again}within queue_timeout_s ({limit_s} s): "
            f"{self._cause or 'nothing says why'}; free capacity, ask for less, or raise it",
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
"""How long a permanently failed container may wait for its job to be stopped by others."""


class PodFailures:
    """The failures of one job's pods; `job` as the launcher first saw it."""

    def __init__(self, kind: Kind, job: Object) -> None:
        self._kind = kind
        self._ends: dict[str, PodFailure] = {}
        self._permanent_since: float | None = None
        recorded = (job["metadata"].get("annotations") or {}).get(OUT_OF_MEMORY_ANNOTATION, "")
        self._out_of_memory: list[str] = str(recorded).split()

    def note(self, pods: Sequence[Object]) -> Iterator[PodFailure]:
        """Yield the failures that were not noted yet."""
        for pod in pods:
            uid, end = str(pod["metadata"]["uid"]), pod_failure(self._kind, pod)
            if end is None or uid in self._ends:
                continue
            self._ends[uid] = end
            key = f"{end.replica}/{uid}"
            if end.exit_code == EXIT_OUT_OF_MEMORY and key not in self._out_of_memory:
                self._out_of_memory.append(key)
            yield end

    @property
    def last(self) -> PodFailure | None:
        """Return the newest failure."""
        return list(self._ends.values())[-1] if self._ends else None

    @property
    def annotations(self) -> dict[str, str]:
        """Return annotations that the next launcher needs."""
        return (
            {OUT_OF_MEMORY_ANNOTATION: " ".join(self._out_of_memory)} if self._out_of_memory else {}
        )

    def exceeded(self, now: float) -> Exceeded | None:
        """Return why to delete a job that its operator would restart for ever (monotonic `now`)."""
        per_replica = Counter(each.partition("/")[0] for each in self._out_of_memory)
        ooms = [each for each in self._ends.values() if each.exit_code == EXIT_OUT_OF_MEMORY]
        if ooms and per_replica[ooms[-1].replica] >= MAX_OUT_OF_MEMORY:
            return Exceeded(f"for the second time {ooms[-1]}", EXIT_NO_ATTEMPTS_LEFT)
        permanent = [each for each in self._ends.values() if each.exit_code < FIRST_SIGNAL_CODE]
        if not permanent or not self._kind.replaces_pods:  # the others may still commit
            return None
        if self._permanent_since is None:
            self._permanent_since = now
        if now - self._permanent_since < PERMANENT_S:
            return None
        return Exceeded(str(permanent[0]), permanent[0].exit_code)
