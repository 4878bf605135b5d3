"""Run the training as a process on this machine.

The process stays in the process group of its launcher, so that a signal to the group reaches it
and nothing outlives the group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rlvr_components.jobs.job import JobSpec, JobStatus
from rlvr_trainer.errors import EXIT_PREEMPTED, PlatformError

NUM_KEPT_LINES = 200
ERROR_PREFIX = "error: "
TRACEBACK = "Traceback (most recent call last)"
EXIT_INFRASTRUCTURE = PlatformError.exit_code


@dataclass(frozen=True)
class LocalProcess:
    """The arguments of a process, and additions to this process's environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


class LocalBackend:
    """Runs a job's command with this Python."""

    max_attempts = 1
    stop_signals = (signal.SIGTERM,)
    """SIGINT is left out: a terminal sends ^C to the job, too."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._last_lines: dict[str, deque[str]] = {}

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """Return the same job: earlier attempts are not known."""
        return spec

    def render(self, spec: JobSpec) -> LocalProcess:
        """Render the command with this interpreter as its `python`. Pure."""
        program, *arguments = spec.command
        program = sys.executable if program == "python" else program
        return LocalProcess((program, *arguments), dict(spec.env))

    def submit(self, rendered: LocalProcess) -> str:
        """Start the process and return its id. Raises PlatformError."""
        try:
            process = subprocess.Popen(
                rendered.argv,
                env={**os.environ, **rendered.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise PlatformError(
                f"{rendered.argv[0]} cannot be started ({error.strerror}); check the installation"
            ) from error
        job = str(process.pid)
        self._processes[job] = process
        self._last_lines[job] = deque(maxlen=NUM_KEPT_LINES)
        return job

    def status(self, job: str) -> JobStatus:
        """Return the process's status."""
        return status_from(self._processes[job].poll(), self._last_lines[job])

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """Yield standard output and error together, until the process has terminated."""
        process, last_lines = self._processes[job], self._last_lines[job]
        assert process.stdout is not None
        for line in process.stdout:
            line = line.rstrip("\n")
            last_lines.append(line)
            yield line
        process.wait()

    def stop_earlier(self, spec: JobSpec) -> None:
        """Do nothing: a job terminates with the process group that launched it."""

    def stop(self, job: str) -> None:
        """Send SIGTERM."""
        process = self._processes.get(job)
        if process and process.poll() is None:
            process.terminate()


def status_from(returncode: int | None, last_lines: Iterable[str]) -> JobStatus:
    """Return the status for a return code (negative: a signal); the last lines give the cause."""
    if returncode is None:
        return JobStatus("running")
    if returncode == 0:
        return JobStatus("succeeded", 0)
    if returncode == EXIT_PREEMPTED:
        cause = "it was stopped after it had committed a checkpoint; run it again to continue"
        return JobStatus("failed", EXIT_PREEMPTED, cause)
    if returncode < 0:
        return _killed_by(-returncode)
    cause = _last_error(last_lines) or f"it ended with exit code {returncode} and no message"
    return JobStatus("failed", returncode, cause)


def _killed_by(number: int) -> JobStatus:
    name = signal.Signals(number).name
    match name:
        case "SIGKILL":
            cause = (
                "it was killed by SIGKILL, most likely because memory ran out; lower "
                "training.per_device_batch_size, or free memory and run it again"
            )
            return JobStatus("failed", EXIT_INFRASTRUCTURE, cause)
        case "SIGTERM" | "SIGINT" | "SIGHUP":
            cause = f"{name} stopped it before it could commit a checkpoint; run it again"
            return JobStatus("failed", EXIT_INFRASTRUCTURE, cause)
        case _:
            return JobStatus("failed", 1, f"it crashed with {name}; its last lines may say where")


def _last_error(lines: Iterable[str]) -> str:
    """Return the last `error: …` line with its indented lines, or else the raised exception."""
    message: list[str] = []
    raised, in_traceback = "", False
    for line in lines:
        if line.startswith(ERROR_PREFIX):
            message = [line.removeprefix(ERROR_PREFIX)]
        elif message and line.startswith("  "):
            message.append(line)
        elif line.startswith(TRACEBACK):
            in_traceback = True
        elif in_traceback and line and not line.startswith(" "):
            raised, in_traceback = f"unexpected {line}", False
    return "\n".join(message) or raised
