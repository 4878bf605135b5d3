"""Run the steps on this machine: start them, show their progress, stop them.

The steps run in a child process (`child.py`) in its own process group, so that one signal reaches
everything that they start and nothing outlives the run. This process shows the progress, which it
reads from the run's events.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, TextIO
from uuid import uuid4

from rlvr_components.steps.step_process import STARTED
from rlvr_pipelines.local.claim import Claim, claim
from rlvr_pipelines.local.display import Display, open_display
from rlvr_pipelines.local.event_follower import EventFollower
from rlvr_pipelines.local.process_group import ProcessGroup
from rlvr_pipelines.local.run_progress import RunProgress, clock
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError, RLVRError
from rlvr_trainer.phases import TITLES
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import RunDir
from rlvr_trainer.storage.atomic_files import disk_error, write_text
from rlvr_trainer.variables import EVENTS_VARIABLE, RUN_ID_VARIABLE

POLL_S = 0.1
STOP_WAIT_S = 60.0
MAX_STOP_WAIT_S = 300.0
NUM_LOG_LINES = 12
MIN_FREE_BYTES = 1 << 20


class Interrupted(RLVRError):
    """A signal stopped the run, which can be resumed."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def run_pipeline(
    recipe: Recipe,
    path: Path,
    *,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    progress_to: TextIO | None = None,
) -> RunDir:
    """Run or resume the recipe's steps in a run directory; return that with its artifacts.

    `arguments` are parameters of the pipeline: with `job_place` pytorchjob or trainjob, and
    `storage_uri`, its model steps run in a cluster. A finished run does not run again.
    Raises ConfigError for a run directory that cannot be used, JobFailed with the exit code of a
    failed step, Interrupted.
    """
    with claim(path, recipe) as claimed:
        run_dir = claimed.run_dir
        stream = progress_to or sys.stderr
        if run_dir.evaluation.exists():
            print(f"{path} is finished; to train again, use another --run-dir", file=stream)
            return run_dir
        progress = RunProgress()
        heading = f"{recipe.name}  recipe {recipe.hash}  into {path}"
        with open_display(stream, progress, heading) as display:
            _run_child(recipe, claimed, dict(arguments), progress, display)
    return run_dir


def _run_child(
    recipe: Recipe,
    claimed: Claim,
    arguments: dict[str, Any],
    progress: RunProgress,
    display: Display,
) -> None:
    run_dir = claimed.run_dir
    arguments.setdefault("job_place", "local")
    try:
        run_dir.pipeline.mkdir(exist_ok=True)
        environment = _environment(recipe, run_dir, arguments)
        _end_last_line(run_dir.events)
        log = run_dir.log.open("ab")
    except OSError as error:
        raise disk_error(run_dir.path, error) from error
    events, log_start = EventFollower(run_dir.path), log.tell()

    def update() -> None:
        for event in events.new_events():
            if progress.update(event):
                display.show(event)

    child = [sys.executable, "-m", "rlvr_pipelines.local.child", str(run_dir.path.resolve())]
    with _signals() as received, log:
        group = ProcessGroup(
            [*child, json.dumps(arguments)],
            env=environment,
            output=log,
            keep_open=[claimed.lock.fileno()],  # locked until the run's last process ends
        )
        try:
            while group.poll() is None and not received:
                update()
                time.sleep(POLL_S)
            if received:
                _stop(group, received, progress, display, update)
        finally:
            group.kill()
            update()
            running = progress.running
            progress.end(time.time(), "stopped" if received else "failed")
    if received:
        raise Interrupted(received[0])
    if code := group.poll():
        raise _failure(run_dir, log_start, code, progress, running.title if running else "A step")


def _stop(
    group: ProcessGroup,
    received: list[int],
    progress: RunProgress,
    display: Display,
    update: Callable[[], None],
) -> None:
    """Send SIGTERM and wait, until a second signal or for a limited time."""
    training = progress.steps["train"].state == "running"
    # training commits and stops at the end of an optimizer step
    step_s = 2 * progress.step_seconds if training else 0.0
    wait_s = min(max(STOP_WAIT_S, step_s), MAX_STOP_WAIT_S)
    what = "training commits a checkpoint at the end of its step" if training else "the step ends"
    display.say(f"Stopping: {what} (at most {clock(wait_s)}; Ctrl-C again kills it).")
    deadline = time.monotonic() + wait_s
    group.signal(signal.SIGTERM)
    while group.is_alive() and len(received) == 1:
        if time.monotonic() > deadline:
            display.say(f"It did not stop within {clock(wait_s)}: killing it.")
            return
        update()
        time.sleep(POLL_S)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that arrive in the body."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = [signal.signal(number, receive) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _end_last_line(path: Path) -> None:
    """End the partial line of a process that was killed, so that the next event is a line."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _environment(recipe: Recipe, run_dir: RunDir, arguments: Mapping[str, Any]) -> dict[str, str]:
    environment = {
        **os.environ,
        EVENTS_VARIABLE: str(run_dir.events.resolve()),
        "PYTHONSAFEPATH": "1",  # the working directory has no packages
        "PYTHONUNBUFFERED": "1",  # `rlvr logs -f` reads the log while it is written
    }
    if arguments["job_place"] != "local":
        environment[RUN_ID_VARIABLE] = _remote_id(recipe, run_dir, arguments)
    return environment


def _remote_id(recipe: Recipe, run_dir: RunDir, arguments: Mapping[str, Any]) -> str:
    """Return the run's id in the cluster, the same for every attempt."""
    if not arguments.get("storage_uri"):
        raise ConfigError(
            f"a run on {arguments['job_place']} has no storage; name s3://bucket/prefix, or a path "
            "on a volume of all pods, with --storage"
        )
    if not run_dir.remote_id.exists():
        write_text(run_dir.remote_id, f"{recipe.name}-{uuid4().hex[:12]}\n")
    return run_dir.remote_id.read_text("utf-8").strip()


def _failure(
    run_dir: RunDir, log_start: int, code: int, progress: RunProgress, running: str
) -> RLVRError:
    """Return the cause of a failed run, with the last lines and the path of its log."""
    if failure := progress.failure:
        phase, message = failure["phase"], failure["message"]
        lines = _last_lines(run_dir.log, log_start, phase)
        where = _log([line for line in lines if line != f"error: {message}"], run_dir)
        title = TITLES.get(phase, phase.capitalize())
        return JobFailed(f"{title} failed: {message}{where}", exit_code=failure["exit_code"])
    lines = _last_lines(run_dir.log, log_start)
    where = _log(lines, run_dir)
    if code == EXIT_PREEMPTED:
        return JobFailed(
            f"{running} was stopped by a signal; run the same command again to continue{where}",
            exit_code=code,
        )
    if shutil.disk_usage(run_dir.path).free < MIN_FREE_BYTES:
        return PlatformError(
            f"the disk of {run_dir.path} is full; free some space and run the same command again"
            f"{where}"
        )
    if any(line.startswith("Traceback") for line in lines):
        return JobFailed(f"{running} failed before it began; is the installation whole?{where}")
    return PlatformError(
        f"{running} terminated without an error, as if killed for lack of memory; free some "
        "memory, or lower the recipe's batch sizes, and run the same command again"
        f"{where}"
    )


def _log(lines: Sequence[str], run_dir: RunDir) -> str:
    shown = "".join(f"\n  | {line}" for line in lines[-NUM_LOG_LINES:])
    return f"{shown}\nThe whole log: {run_dir.log}"


def _last_lines(path: Path, start: int, phase: str = "") -> list[str]:
    """Return the output of this step, or without `phase` of the last one, in this attempt."""
    with path.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith(STARTED + phase)]
    own = lines[starts[-1] + 1 :] if starts else lines
    end = next((i for i, line in enumerate(own) if line.startswith(STARTED)), len(own))
    return own[:end]
