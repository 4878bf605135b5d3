"""Follow the events that are appended to a run directory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlvr_trainer.run_dir.events import parse_events
from rlvr_trainer.run_dir.metrics_log import MetricsFollower
from rlvr_trainer.storage import LocalStorage

POLL_S = 0.1


class EventFollower:
    """The events that are appended to a run directory after the follower was made."""

    def __init__(self, run_dir: Path) -> None:
        self._metrics = MetricsFollower(LocalStorage(run_dir))
        self._metrics.new_lines()

    def new_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call. Raises PlatformError, ConfigError."""
        return list(parse_events(self._metrics.new_lines()))


@contextmanager
def following(run_dir: Path, take: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `take` with each new event, from a thread, until the body ends."""
    follower, ended = EventFollower(run_dir), threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_S):
            for event in follower.new_events():
                take(event)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for event in follower.new_events():
            take(event)
