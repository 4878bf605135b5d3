"""Read a growing file of events."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POLL_S = 0.1


class EventFollower:
    """Gives the events that were appended to a file since it was asked last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._partial = b""

    def new_events(self) -> list[dict[str, Any]]:
        """Whole new lines only; a line that is not an event is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(content)
        *lines, self._partial = (self._partial + content).split(b"\n")
        events = []
        for each in lines:
            try:
                event = json.loads(each)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                events.append(event)
        return events


@contextmanager
def following(path: Path, take: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Hand each new event to `take`, from a thread, while within."""
    follower, ended = EventFollower(path), threading.Event()

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
