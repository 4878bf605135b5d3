"""Inspect a run on this machine from another process: its status and log; stop it."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlvr_components.steps.step_process import STARTED
from rlvr_pipelines.local.run_progress import RunProgress, StepProgress, describe_numbers
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.run_dir.events import read_events
from rlvr_trainer.run_dir.layout import RunDir, read_recipe

POLL_S = 0.2

Phase = Literal["running", "succeeded", "failed", "stopped"]


@dataclass(frozen=True)
class LocalRun:
    """The status of a run on this machine."""

    run_dir: RunDir
    name: str
    recipe_hash: str
    phase: Phase
    cause: str
    """The cause of a failure."""
    process: int | None
    """The id of the process that runs it."""
    progress: RunProgress

    @property
    def step(self) -> StepProgress | None:
        """The current step, or the last one if the run has ended."""
        begun = [step for step in self.progress.steps.values() if step.state != "pending"]
        return begun[-1] if begun else None

    def facts(self) -> dict[str, Any]:
        """Return the status as plain data."""
        return {
            "run": str(self.run_dir.path),
            "kind": "local",
            "name": self.name,
            "recipe_hash": self.recipe_hash,
            "phase": self.phase,
            "cause": self.cause,
            "process": self.process,
            "steps": [
                {"name": phase, "state": step.state, "done": step.done, "total": step.total,
                 "numbers": step.numbers}
                for phase, step in self.progress.steps.items()
            ],
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Return a line of text for each step."""
        width = max(len(step.title) for step in self.progress.steps.values())
        lines = []
        for step in self.progress.steps.values():
            done = f"{step.done:,}/{step.total:,}  " if step.total else ""
            numbers = "" if step.state == "pending" else describe_numbers(step.numbers)
            lines.append(f"{step.title:<{width}}  {step.state:<8}  {done}{numbers}".rstrip())
        return lines


def inspect_run(path: Path) -> LocalRun:
    """Return the status of a run. Raises ConfigError if the path is not a run directory."""
    run_dir = RunDir(path)
    recipe = read_recipe(path)
    progress, last = RunProgress(), 0.0
    for event in read_events(run_dir.events):
        progress.update(event)
        last = float(event.get("time") or last)
    running, process, cause = is_running(run_dir), None, ""
    phase: Phase
    if running:
        phase, process = "running", holder(run_dir)
    elif run_dir.evaluation.exists() or _is_finished_evaluation(run_dir, progress):
        phase = "succeeded"
    else:
        cause = str((progress.failure or {}).get("message", ""))
        phase = "failed" if cause else "stopped"
        progress.end(last, phase)
    return LocalRun(run_dir, recipe.name, recipe.hash, phase, cause, process, progress)


def _is_finished_evaluation(run_dir: RunDir, progress: RunProgress) -> bool:
    """Return True if the directory is of `rlvr evaluate`, which has finished."""
    begun = [step.state for step in progress.steps.values() if step.state != "pending"]
    return len(begun) > 1 and set(begun) == {"done"} and not run_dir.pipeline.exists()


def is_running(run_dir: RunDir) -> bool:
    """Return True if a process holds the run's lock: the run's own, or a step that outlived it."""
    try:
        with run_dir.lock.open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder(run_dir: RunDir) -> int | None:
    """Return the process that the lock file names, if it has that file open."""
    try:
        process = int(run_dir.lock.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not sys.platform.startswith("linux"):
        return process
    lock = os.stat(run_dir.lock)
    with suppress(OSError):
        for entry in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(entry.stat(), lock):
                    return process
    return None  # another process has the number now


def stop_run(path: Path, wait_s: float) -> bool:
    """Ask the run to stop and wait for it; return False if it still runs. Raises ConfigError.

    Training commits a checkpoint at the end of its optimizer step. A run whose own process has
    terminated is stopping already.
    """
    run_dir = RunDir(path)
    read_recipe(path)
    process = holder(run_dir)
    if not is_running(run_dir):
        return True
    if process is not None:
        with suppress(ProcessLookupError):
            _terminate(process, path)
    deadline = time.monotonic() + wait_s
    while is_running(run_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def run_log_lines(path: Path, *, step: str = "", follow: bool = False) -> Iterator[str]:
    """Yield the lines of the run's log, of one step or all; with `follow`, until the run ends.

    Raises ConfigError.
    """
    run_dir = RunDir(path)
    read_recipe(path)
    current = ""
    for line in _grow(run_dir, follow=follow):
        if line.lstrip().startswith(STARTED):
            current = line.strip().removeprefix(STARTED)
        if not step or step == current:
            yield line


def _grow(run_dir: RunDir, *, follow: bool) -> Iterator[str]:
    try:
        file = run_dir.log.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(
            f"{run_dir.log} cannot be read ({error.strerror}); has the run begun?"
        ) from None
    with file:
        partial = ""
        while True:
            running = follow and is_running(
                run_dir
            )  # asked before reading, so that no line is missed
            *lines, partial = (partial + file.read()).split("\n")
            yield from lines
            if not running:
                break
            time.sleep(POLL_S)
    if partial:
        yield partial


def _terminate(process: int, path: Path) -> None:
    try:
        os.kill(process, signal.SIGTERM)
    except PermissionError:
        raise ConfigError(
            f"{path} is run by process {process}, which belongs to another user; ask that user to "
            "stop it, or use sudo"
        ) from None
