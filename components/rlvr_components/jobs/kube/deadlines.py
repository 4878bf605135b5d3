"""How long a job may wait and how long it may run. Pure: the caller brings the time.

Time in the queue and time of running have limits of their own: a job that waited two days for its
GPUs has not used up its run. The queue's limit holds again when a replica is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr_components.jobs.kube.waits import Wait
from rlvr_components.platform import Platform
from rlvr_trainer.errors import JobFailed, PlatformError


@dataclass(frozen=True)
class Exceeded:
    """A limit was exceeded: what to tell, and the exit code."""

    cause: str
    exit_code: int


class Deadlines:
    """The limits of one job. All times are seconds since 1970."""

    def __init__(
        self, platform: Platform, *, created_at: float, running_since: float | None, now: float
    ) -> None:
        self._platform = platform
        self.running_since = running_since
        """When all replicas ran for the first time."""
        self._waiting_since: float | None = created_at if running_since is None else now
        self._grace_since: float | None = None
        self._cause = ""

    def check(self, *, is_running: bool, wait: Wait | None, now: float) -> Exceeded | None:
        """Whether a limit is exceeded, given how the job stands now."""
        if is_running:
            self.running_since = self.running_since or now
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        if wait:
            self._cause = wait.cause
        return self._grace(wait, now) or self._queue(wait, now) or self._run(now)

    def _grace(self, wait: Wait | None, now: float) -> Exceeded | None:
        if wait is None or wait.limit != "grace":
            self._grace_since = None
            return None
        self._grace_since = self._grace_since or now
        if now - self._grace_since < self._platform.start_grace_s:
            return None
        return Exceeded(wait.cause, wait.exit_code)

    def _queue(self, wait: Wait | None, now: float) -> Exceeded | None:
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
