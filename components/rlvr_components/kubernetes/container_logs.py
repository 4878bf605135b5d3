"""Follow the log of a container across broken connections, without lost or repeated lines.

A log can only be opened from a whole second, so the lines of the last two seconds are remembered,
and skipped when they are repeated.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from rlvr_components.kubernetes.api_errors import Outage, Refusal
from rlvr_components.kubernetes.client import (
    KubernetesApi,
    Query,
    Stream,
    delays,
    pause,
    retry_delay,
)
from rlvr_trainer.errors import RLVRError

READ_TIMEOUT_S = 120.0
"""Time of silence after which the log is opened again; a container may be silent for longer."""
REOPEN_S = 0.5
OVERLAP_S = 1
"""Lines may be out of order by this much: stdout and stderr are stamped separately."""
MAX_LINE_BYTES = 2**16

ContainerState = Literal["running", "terminated", "restarted", "gone"]


@dataclass(frozen=True)
class Container:
    """One run of a container of one pod."""

    namespace: str
    pod: str
    name: str
    prefix: str

    @property
    def path(self) -> str:
        """Return the path of its log."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}/log"


class Window:
    """The lines of the last seconds that were already handed over."""

    def __init__(self) -> None:
        self._given: dict[int, Counter[int]] = {}
        self._replayed: dict[int, Counter[int]] = {}
        self._newest_s = 0

    @property
    def since(self) -> str | None:
        """Return the time to continue from, as Kubernetes writes it; None for the beginning."""
        if not self._newest_s:
            return None
        start = datetime.fromtimestamp(self._newest_s - OVERLAP_S, UTC)
        return start.strftime("%Y-%m-%dT%H:%M:%SZ")

    def reopen(self) -> None:
        """Prepare to read the log again from `since`."""
        self._replayed = {second: Counter(lines) for second, lines in self._given.items()}

    def is_new(self, second: int, line: bytes) -> bool:
        """Return True if the line was not handed over yet, and remember it."""
        key = hash(line)
        replayed = self._replayed.get(second)
        if replayed and replayed[key]:
            replayed[key] -= 1
            return False
        if second >= self._newest_s - OVERLAP_S:
            self._given.setdefault(second, Counter())[key] += 1
        if second > self._newest_s:
            self._newest_s = second
            for old in [given for given in self._given if given < second - OVERLAP_S]:
                del self._given[old]
        return True


class LogFollower:
    """A thread that passes every line of a container to `put` until the container terminates."""

    def __init__(
        self,
        api: KubernetesApi,
        container: Container,
        *,
        state: Callable[[], ContainerState],
        put: Callable[[str], None],
    ) -> None:
        self._api = api
        self._container = container
        self._state = state
        self._put = put
        self._window = Window()
        self._stream: Stream | None = None
        self._is_closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"logs {container.prefix}", daemon=True
        )

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._is_closed = True
        if self._stream:
            self._stream.close()

    @property
    def is_alive(self) -> bool:
        """True while more lines may arrive."""
        return self._thread.is_alive()

    def _run(self) -> None:
        delay = delays()
        while not self._is_closed:
            state = self._state()  # before reading, so that a log read to its end is complete
            try:
                self._read(state)
            except Refusal:  # the container has not started, or is gone
                if state != "running":
                    return
                pause(next(delay), self._closed)
                continue
            except Outage as error:
                if state == "gone":
                    return
                pause(retry_delay(error, next(delay)), self._closed)
                continue
            except RLVRError:  # as of a login plugin; watching reports it
                pause(next(delay), self._closed)
                continue
            if state != "running":
                return
            delay = delays()
            pause(REOPEN_S, self._closed)

    def _read(self, state: ContainerState) -> None:
        """Pass on the lines of one connection; the next connection repeats a line that was cut."""
        query: dict[str, str | int | bool] = {
            "container": self._container.name,
            "timestamps": True,
            "follow": state == "running",
        }
        if state == "restarted":
            query["previous"] = True
        if self._window.since:
            query["sinceTime"] = self._window.since
        self._window.reopen()
        path = self._container.path
        self._stream = self._api.stream(path, query, read_timeout_s=READ_TIMEOUT_S)
        for line in self._stream.lines(MAX_LINE_BYTES):
            if self._is_closed:
                return
            if not line.endswith(b"\n") and state == "running":
                return
            stamped = split_timestamp(line)
            if stamped and self._window.is_new(int(stamped[0]), line.rstrip(b"\n")):
                self._put(f"[{self._container.prefix}] {stamped[1]}")

    def _closed(self) -> bool:
        return self._is_closed


def lines_so_far(api: KubernetesApi, containers: list[Container]) -> Iterator[str]:
    """Yield the present lines of all containers, ordered by time."""
    streams = [_stamped_lines(api, container) for container in containers]
    for _, line in heapq.merge(*streams, key=lambda stamped: stamped[0]):
        yield line


def _stamped_lines(api: KubernetesApi, container: Container) -> Iterator[tuple[float, str]]:
    query: Query = {"container": container.name, "timestamps": True}
    with suppress(Refusal):  # the container has not started
        stream = api.stream(container.path, query, read_timeout_s=READ_TIMEOUT_S)
        for line in stream.lines(MAX_LINE_BYTES):
            stamped = split_timestamp(line)
            if stamped:
                yield stamped[0], f"[{container.prefix}] {stamped[1]}"


def split_timestamp(line: bytes) -> tuple[float, str] | None:
    """Return seconds since 1970 and the text; None for a message of the kubelet."""
    stamp, _, text = line.rstrip(b"\r\n").partition(b" ")
    try:
        time = datetime.fromisoformat(stamp.decode("ascii"))
    except ValueError:
        return None
    if time.tzinfo is None:
        return None
    return time.timestamp(), text.decode("utf-8", "replace")
