"""Launch a job and follow it to its end."""

from __future__ import annotations

import signal
from types import FrameType

from rlvr_components.jobs import Backend, JobSpec
from rlvr_trainer.errors import EXIT_PREEMPTED, JobFailed


def launch(backend: Backend, spec: JobSpec) -> None:
    """Submit the job, print its lines, return once it has succeeded.

    A SIGTERM is passed on, and the job's end awaited. Call from the main thread.
    Raises JobFailed with the job's cause and exit code.
    """
    job = ""
    terminated = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True
        if job:
            backend.stop(job)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        job = backend.submit(backend.render(spec))
        if terminated:  # while it was submitted
            backend.stop(job)
        for line in backend.logs(job):
            print(line, flush=True)
        status = backend.status(job)
    finally:
        signal.signal(signal.SIGTERM, previous)
    if status.phase != "succeeded":
        raise JobFailed(status.cause, exit_code=status.exit_code)
    if terminated:
        raise JobFailed("stopped after the last step", exit_code=EXIT_PREEMPTED)
