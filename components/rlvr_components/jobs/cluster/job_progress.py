"""Report the progress of a run: read its metrics.jsonl periodically, annotate its job.

`kubectl get` with custom columns shows the annotations, and the launcher can draw the events.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rlvr_components.jobs.pods import PHASE_ANNOTATION, PROGRESS_STEP_ANNOTATION, REWARD_ANNOTATION
from rlvr_trainer.errors import RLVRError
from rlvr_trainer.run_dir.events import parse_events
from rlvr_trainer.run_dir.metrics_log import MetricsFollower
from rlvr_trainer.storage import open_storage

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0
Event = Mapping[str, Any]


class JobProgress:
    """A thread that reads the events of a run directory and reports new ones."""

    def __init__(
        self,
        run_dir: str,
        *,
        annotate: Callable[[dict[str, str]], None],
        on_event: Callable[[Event], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._run_dir = run_dir
        self._follower: MetricsFollower | None = None
        self._annotate = annotate
        self._on_event = on_event
        self._interval_s = interval_s
        self._known: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._is_warned = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Read once more, then stop the thread."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._interval_s)
            try:
                self._look()
            except (RLVRError, OSError) as error:  # missing progress must not fail the job
                if not self._is_warned:
                    logger.warning("no progress is shown for now: %s", error)
                self._is_warned = True

    def _look(self) -> None:
        self._follower = self._follower or MetricsFollower(open_storage(self._run_dir))
        for event in parse_events(self._follower.new_lines()):
            self._known |= annotations_of(event)
            self._on_event(event)
        if self._known != self._written:
            self._annotate(self._known)
            self._written = dict(self._known)


def annotations_of(event: Event) -> dict[str, str]:
    """Return an event's progress as annotations: `STEP/TOTAL`, reward, phase."""
    match event["event"]:
        case "phase" if event.get("state") == "started":
            return {PHASE_ANNOTATION: str(event.get("phase", ""))}
        case "step":
            annotations = {
                PROGRESS_STEP_ANNOTATION: _fraction(event.get("step"), event.get("max_steps"))
            }
            if isinstance(event.get("reward"), int | float):
                annotations[REWARD_ANNOTATION] = f"{event['reward']:.3f}"
            return annotations
        case "evaluation" if event.get("phase") != "train" and event.get("total"):
            return {
                PHASE_ANNOTATION: str(event.get("phase", "")),
                PROGRESS_STEP_ANNOTATION: _fraction(event.get("done"), event["total"]),
            }
        case _:
            return {}


def _fraction(done: object, total: object) -> str:
    return f"{done or 0}/{total}" if total else f"{done or 0}"
