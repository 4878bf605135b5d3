"""Launch a job and follow it until it terminates."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType

from rlvr_components.jobs.job import Backend, JobSpec, JobStatus
from rlvr_trainer.errors import EXIT_PREEMPTED, JobFailed


def launch(
    backend: Backend,
    spec: JobSpec,
    prepare: Callable[[JobSpec], JobSpec] = lambda spec: spec,
    *,
    is_run_ending: Callable[[], bool] = lambda: True,
) -> None:
    """Submit the job or adopt it, print its lines, return once it has succeeded.

    `prepare` writes the job's inputs and returns the job, completed with what is known only then. A
    job that fails for a passing cause is retried within the backend's budget. A signal stops it at
    once, also if an earlier launch left it; but if `is_run_ending()` is then false, only this
    launcher ends, and the next one adopts the job. Call from the main thread.
    Raises JobFailed with the job's cause and exit code, ConfigError, PlatformError.
    """
    launched = _Launch(backend, is_run_ending)
    with launched.stopped_by_signals():
        spec = launched.begin(spec, prepare)
        for number in count(1):
            status = launched.run(spec)
            if launched.is_stopped or not status.is_retried or number >= backend.max_attempts:
                break
            print(f"[{spec.name}] {status.cause}; it is retried", flush=True)
            spec = backend.next_attempt(spec)
    if status.phase != "succeeded":
        raise JobFailed(status.cause, exit_code=status.exit_code)
    if launched.is_stopped:
        raise JobFailed("stopped after the last step", exit_code=EXIT_PREEMPTED)


class _StoppedEarly(BaseException):
    """A signal arrived before the job to stop was known."""


class _Left(BaseException):
    """A signal ends this launcher, and not its job."""


class _Launch:
    """The job that this process launched, and the signals that stop it."""

    def __init__(self, backend: Backend, is_run_ending: Callable[[], bool]) -> None:
        self._backend = backend
        self._is_run_ending = is_run_ending
        self._job = ""
        self._is_early = False
        self._is_signalled = False
        self.is_stopped = False

    def begin(self, spec: JobSpec, prepare: Callable[[JobSpec], JobSpec]) -> JobSpec:
        """Prepare the job, and choose its attempt."""
        self._is_early = True
        try:
            return self._backend.next_attempt(prepare(spec))
        except _StoppedEarly:
            self._backend.stop_earlier(spec)
            raise JobFailed(
                "stopped by a signal before its job was launched; run it again to continue",
                exit_code=EXIT_PREEMPTED,
            ) from None
        finally:
            self._is_early = False

    def run(self, spec: JobSpec) -> JobStatus:
        """Run one attempt until it terminates; return its status."""
        self._job = ""
        self._job = self._backend.submit(self._backend.render(spec))
        if self.is_stopped:  # while it was submitted
            self._backend.stop(self._job)
        for line in self._backend.logs(self._job):
            print(line, flush=True)
        return self._backend.status(self._job)

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Within the context, signals stop the job."""
        previous = {
            number: signal.signal(number, self._stop) for number in self._backend.stop_signals
        }
        try:
            yield
        except _Left:
            raise JobFailed(
                "a signal stopped this pod while its run continues (eviction, drain, deletion); "
                "its job continues too, and the next attempt of this step adopts it",
                exit_code=EXIT_PREEMPTED,
            ) from None
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._is_signalled:
            return
        self._is_signalled = True
        if not self._is_run_ending():
            raise _Left
        self.is_stopped = True
        if self._is_early:
            raise _StoppedEarly
        self._backend.stop(self._job)
