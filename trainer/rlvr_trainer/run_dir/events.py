"""Write and read the events of a run: one JSON object a line in `metrics.jsonl`.

Every event has `time` (seconds since 1970), `event` and, where it has one, `step`:

    phase       phase, state (started | finished | failed | reused), and results
    step        an optimizer step: numbers by TRL's names, and max_steps
    evaluation  phase, done, total, and at the end accuracy and format
    checkpoint  a committed checkpoint: path
    remark      message, about the recipe or the cluster
    failure     the cause that ends the run: phase, message, exit_code
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlvr_trainer.errors import RLVRError
from rlvr_trainer.storage.atomic_files import disk_error
from rlvr_trainer.variables import EVENTS_VARIABLE


def emit(event: str, **fields: Any) -> None:
    """Append one event to the file named by RLVR_EVENTS; without it, do nothing.

    A line is written in one call, so several processes may append. Raises PlatformError
    for a full or broken disk, ConfigError for a file that cannot be written.
    """
    path = os.environ.get(EVENTS_VARIABLE)
    if not path:
        return
    line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n"
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise disk_error(Path(path), error) from error


def evaluation_line(phase: str, accuracy: float, format: float) -> str:
    """Return the line that the log shows for an evaluation, from which SageMaker draws."""
    return f"evaluation {phase}  accuracy {accuracy:.4f}  format {format:.4f}"


@contextmanager
def phase_events(name: str) -> Iterator[dict[str, Any]]:
    """Emit events at the start and at the end of a phase; the end carries the yielded dict."""
    results: dict[str, Any] = {}
    emit("phase", phase=name, state="started")
    try:
        yield results
    except BaseException as error:
        with suppress(RLVRError):  # a full disk may be the cause
            emit("phase", phase=name, state="failed", message=str(error), **results)
        raise
    emit("phase", phase=name, state="finished", **results)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a file in order; of a step trained again, the newest."""
    if not path.is_file():
        return []
    events = list(parse_events(path.read_bytes().splitlines()))
    latest = {
        event["step"]: index for index, event in enumerate(events) if event["event"] == "step"
    }
    return [
        event
        for index, event in enumerate(events)
        if event["event"] != "step" or latest[event["step"]] == index
    ]


def parse_events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the events among the lines; incomplete lines are skipped."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the last line of a process that was killed
        if isinstance(event, dict) and "event" in event:
            yield event
