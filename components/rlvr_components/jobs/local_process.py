"""The training as a process on this machine.

It stays in the process group of whoever launches it, so that a signal to the group reaches it and
nothing outlives the group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rlvr_components.jobs import JobSpec, JobStatus
from rlvr_trainer.errors import EXIT_PREEMPTED, PlatformError

NUM_KEPT_LINES = 200
ERROR_PREFIX = "error: "
TRACEBACK = "Traceback (most recent call last)"
EXIT_INFRASTRUCTURE = PlatformError.exit_code


@dataclass(frozen=True)
class LocalProcess:
    """What is started: the arguments, and what is added to this process's environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


class LocalBackend:
    """Runs a job's command with this Python."""

    max_attempts = 1
    stop_signals = (signal.SIGTERM,)
    """A terminal sends ^C to the job too."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._last_lines: dict[str, deque[str]] = {}

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """The same: nothing is known of earlier ones."""
        return spec

    def render(self, spec: JobSpec) -> LocalProcess:
        """The command with this interpreter for its `python`. Pure."""
        program, *arguments = spec.command
        program = sys.executable if program == "python" else program
        return LocalProcess((program, *arguments), dict(spec.env))

    def submit(self, rendered: LocalProcess) -> str:
        """Start the process; its id is the job's. Raises PlatformError."""
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
        """Running, or how the process ended."""
        return end_of(self._processes[job].poll(), self._last_lines[job])

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """Standard output and error together, until the process has ended."""
        process, last_lines = self._processes[job], self._last_lines[job]
        assert process.stdout is not None
        for line in process.stdout:
            line = line.rstrip("\n")
            last_lines.append(line)
            yield line
        process.wait()

    def stop_earlier(self, spec: JobSpec) -> None:
        """Do nothing: a job ends with the process group that launched it."""

    def stop(self, job: str) -> None:
        """Send SIGTERM."""
        process = self._processes.get(job)
        if process and process.poll() is None:
            process.terminate()


def end_of(returncode: int | None, last_lines: Iterable[str]) -> JobStatus:
    """The status behind a return code (negative: a signal), with the cause from the last lines."""
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
    """The last `error: …` line with the indented lines that belong to it, or what was raised."""
    found: list[str] = []
    raised, in_traceback = "", False
    for line in lines:
        if line.startswith(ERROR_PREFIX):
            found = [line.removeprefix(ERROR_PREFIX)]
        elif found and line.startswith("  "):
            found.append(line)
        elif line.startswith(TRACEBACK):
            in_traceback = True
        elif in_traceback and line and not line.startswith(" "):
            raised, in_traceback = f"unexpected {line}", False
    return "\n".join(found) or raised
