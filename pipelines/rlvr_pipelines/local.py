"""The local runner: the pipeline on this machine, watched, stopped and continued.

kfp.local runs in a child process with a process group of its own (`local_child`), so that one
signal reaches every step and nothing outlives the run. This process draws the progress, which it
reads from the run's events, and collects the artifacts at the end.
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

from rlvr_components.pipeline_run import RUN_ID_VARIABLE
from rlvr_components.step import FAILURE_VARIABLE, OUTPUTS_VARIABLE, STARTED
from rlvr_components.training import replace_folder
from rlvr_pipelines.display import Display, open_display
from rlvr_pipelines.follow import EventFollower
from rlvr_pipelines.inputs import fingerprint
from rlvr_pipelines.local_child import INPUTS_VARIABLE
from rlvr_pipelines.process_group import ProcessGroup
from rlvr_pipelines.progress import TITLES, Progress, clock
from rlvr_pipelines.run_dir import Claim, RunDir, claim
from rlvr_trainer.errors import ConfigError, JobFailed, PlatformError, RLVRError
from rlvr_trainer.events import EVENTS_VARIABLE
from rlvr_trainer.files import disk_error, write_text
from rlvr_trainer.recipe import Recipe

POLL_S = 0.1
STOP_WAIT_S = 60.0
MAX_STOP_WAIT_S = 300.0
ASK_AGAIN_S = 5.0
NUM_LOG_LINES = 12
NEXT_STEP = "]: Looking for component"
"""What KFP's executor says first of all."""
MIN_FREE_BYTES = 1 << 20
EXECUTOR = "[KFP Executor"
"""Begins what KFP says before a step and after it."""
LAST_PHASE = "finish"
"""Runs after whatever failed, and is not what a person asks about."""


class Interrupted(RLVRError):
    """A signal ended the run; running it again continues."""

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
    """Run the recipe's pipeline in a run directory, or continue it; returns it with its artifacts.

    `arguments` are parameters of the pipeline: with `job_place` pytorchjob or trainjob, and
    `storage_uri`, its model steps run in a cluster. A run that is whole is not run again.
    Raises ConfigError for a run directory that cannot be used, JobFailed with the code of a failed
    step, Interrupted.
    """
    with claim(path, recipe) as claimed:
        run_dir = claimed.run_dir
        stream = progress_to or sys.stderr
        if run_dir.evaluation.exists():
            print(f"{path} is finished; to train anew, use another --run-dir", file=stream)
            return run_dir
        progress = Progress()
        heading = f"{recipe.name}  recipe {recipe.hash}  into {path}"
        with open_display(stream, progress, heading) as display:
            _run_child(recipe, claimed, dict(arguments), progress, display)
        collect(run_dir)
    return run_dir


def collect(run_dir: RunDir) -> None:
    """Bring the pipeline's artifacts into the run directory, the evaluation last."""
    outputs = {name: Path(path) for name, path in json.loads(run_dir.outputs.read_text()).items()}
    try:
        replace_folder(outputs["data"], run_dir.data)
        if "adapter" in outputs:  # of a training elsewhere; one on this machine puts it in place
            replace_folder(outputs["adapter"], run_dir.adapter)
        for name, target in (
            ("samples", run_dir.samples),
            ("report", run_dir.report),
            ("evaluation", run_dir.evaluation),
        ):
            write_text(target, outputs[name].read_text("utf-8"))
    except OSError as error:
        raise disk_error(run_dir.path, error) from error
    shutil.rmtree(run_dir.pipeline, ignore_errors=True)


def _run_child(
    recipe: Recipe,
    claimed: Claim,
    arguments: dict[str, Any],
    progress: Progress,
    display: Display,
) -> None:
    run_dir = claimed.run_dir
    try:
        run_dir.failure.unlink(missing_ok=True)
        run_dir.outputs.unlink(missing_ok=True)
        temporary = _empty_folder(run_dir.pipeline / "tmp")
        run_dir.log.touch()
        run_id = _run_id(recipe, run_dir, arguments)
        write_text(run_dir.arguments, json.dumps(arguments))
        _end_last_line(run_dir.events)
    except OSError as error:
        raise disk_error(run_dir.path, error) from error
    log_start = run_dir.log.stat().st_size
    events = EventFollower(run_dir.events)

    def update() -> None:
        for event in events.new_events():
            progress.update(event)
            display.show(event)

    with _signals() as received, run_dir.log.open("ab") as log:
        group = ProcessGroup(
            [sys.executable, "-m", "rlvr_pipelines.local_child", str(run_dir.path.resolve())],
            env=_environment(recipe, run_dir, temporary, run_id),
            output=log,
            keep_open=[claimed.lock.fileno()],  # locked until the last of this run is gone
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
    if group.poll() != 0 or not run_dir.outputs.exists():
        raise _failure(run_dir, log_start, running.title if running else "A step")


def _stop(
    group: ProcessGroup,
    received: list[int],
    progress: Progress,
    display: Display,
    update: Callable[[], None],
) -> None:
    """Ask the group to stop and give it time to; a second signal ends the wait."""
    training = progress.steps["train"].state == "running"
    # training stops, and commits, at the end of a step
    step_s = 2 * progress.step_seconds if training else 0.0
    wait_s = min(max(STOP_WAIT_S, step_s), MAX_STOP_WAIT_S)
    what = "training commits a checkpoint at the end of its step" if training else "the step ends"
    display.say(f"Stopping: {what} (at most {clock(wait_s)}; Ctrl-C again kills it).")
    started = asked = time.monotonic()
    group.signal(signal.SIGTERM)
    while group.is_alive() and len(received) == 1:
        now = time.monotonic()
        if now - started > wait_s:
            display.say(f"It did not stop within {clock(wait_s)}: killing it.")
            return
        if now - asked > ASK_AGAIN_S:  # a step may have begun just then
            asked = now
            group.signal(signal.SIGTERM)
        update()
        time.sleep(POLL_S)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that came while within."""
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
    """A process that was killed may have left half a line, which the next one would continue."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _empty_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _run_id(recipe: Recipe, run_dir: RunDir, arguments: dict[str, Any]) -> str:
    """What the run's folder in the storage is called; here the run directory is that folder."""
    place = arguments.setdefault("job_place", "local")
    if place == "local":
        path = run_dir.path.resolve()
        arguments["storage_uri"] = str(path.parent)
        return path.name
    if not arguments.get("storage_uri"):
        raise ConfigError(
            f"a run on {place} has no storage; name s3://bucket/prefix, or a path on a volume of "
            "all pods, with --storage"
        )
    if not run_dir.remote_id.exists():
        write_text(run_dir.remote_id, f"{recipe.name}-{uuid4().hex[:12]}\n")
    return run_dir.remote_id.read_text("utf-8").strip()


def _environment(recipe: Recipe, run_dir: RunDir, temporary: Path, run_id: str) -> dict[str, str]:
    return {
        **os.environ,
        EVENTS_VARIABLE: str(run_dir.events.resolve()),
        FAILURE_VARIABLE: str(run_dir.failure.resolve()),
        INPUTS_VARIABLE: fingerprint(recipe),
        OUTPUTS_VARIABLE: str(run_dir.outputs.resolve()),
        RUN_ID_VARIABLE: run_id,
        # a folder here is no package: kfp would take this repository's docker/ for Docker's SDK
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",  # the log is read while it is written
        "TMPDIR": str(temporary.resolve()),  # kfp.local leaves a folder there for each step
    }


def _failure(run_dir: RunDir, log_start: int, running: str) -> RLVRError:
    """The cause of a failed run, with the end of its log and where that is."""
    failure = _read_failure(run_dir)
    lines = _last_lines(run_dir.log, log_start)
    if failure:
        phase = failure["phase"]
        lines = _last_lines(run_dir.log, log_start, phase)
        title = TITLES.get(phase, phase.capitalize())
        message: str = failure["message"]
        own = [line for line in lines if line != f"error: {message}"]
        where = _log(own, run_dir)
        return JobFailed(f"{title} failed: {message}{where}", exit_code=failure["exit_code"])
    where = _log(lines, run_dir)
    if shutil.disk_usage(run_dir.path).free < MIN_FREE_BYTES:
        return PlatformError(
            f"the disk of {run_dir.path} is full; free some space and run the same command again"
            f"{where}"
        )
    if any(line.startswith("Traceback") for line in lines):
        return JobFailed(f"{running} failed before it began; is the installation whole?{where}")
    return PlatformError(
        f"{running} ended without a word, as a process does that is killed when memory runs out; "
        f"free some memory and run the same command again{where}"
    )


def _read_failure(run_dir: RunDir) -> dict[str, Any] | None:
    try:
        failure = json.loads(run_dir.failure.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return failure if isinstance(failure, dict) else None


def _log(lines: Sequence[str], run_dir: RunDir) -> str:
    shown = "".join(f"\n  | {line}" for line in lines[-NUM_LOG_LINES:])
    return f"{shown}\nThe whole log: {run_dir.log}"


def _last_lines(path: Path, start: int, phase: str = "") -> list[str]:
    """What a step printed itself, without kfp.local's own lines and indentation.

    Of this phase, or else the last that did the run's work.
    """
    with path.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", errors="replace")
    indentation = " " * 4
    lines = [
        line.removeprefix(indentation).rstrip()
        for line in text.splitlines()
        if line.startswith(indentation) and line.strip()
    ] or text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(STARTED)]
    own = [i for i in starts if lines[i] == f"{STARTED}{phase}"] or [
        i for i in starts if lines[i] != f"{STARTED}{LAST_PHASE}"
    ]
    begin = own[-1] if own else -1
    later = (i for i in range(begin + 1, len(lines)) if lines[i].startswith(EXECUTOR))
    return lines[begin + 1 : next(later, len(lines))]
