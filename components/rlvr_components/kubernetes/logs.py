"""The lines of a container, across broken connections: none is lost, none comes twice.

A log can only be asked for from a whole second on. So the lines of the last two seconds are
remembered, and left out when they come again.
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

from rlvr_components.kubernetes.client import (
    KubernetesApi,
    Query,
    Stream,
    delays,
    pause,
    wanted_delay,
)
from rlvr_components.kubernetes.errors import Outage, Refusal
from rlvr_trainer.errors import RLVRError

READ_TIMEOUT_S = 120.0
"""A container may be silent for longer: then the log is asked for again."""
REOPEN_S = 0.5
OVERLAP_S = 1
"""stdout and stderr are stamped side by side, so their lines may be out of order a little."""
MAX_LINE_BYTES = 2**16

State = Literal["running", "ended", "restarted", "gone"]


@dataclass(frozen=True)
class Container:
    """One run of a container of one pod."""

    namespace: str
    pod: str
    name: str
    prefix: str

    @property
    def path(self) -> str:
        """Of its log."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}/log"


class Window:
    """Which lines of the last seconds were given already."""

    def __init__(self) -> None:
        self._given: dict[int, Counter[int]] = {}
        self._replayed: dict[int, Counter[int]] = {}
        self._newest_s = 0

    @property
    def since(self) -> str | None:
        """Where to go on from, as Kubernetes writes time; None: at the beginning."""
        if not self._newest_s:
            return None
        start = datetime.fromtimestamp(self._newest_s - OVERLAP_S, UTC)
        return start.strftime("%Y-%m-%dT%H:%M:%SZ")

    def reopen(self) -> None:
        """The log is read again from `since` on."""
        self._replayed = {second: Counter(lines) for second, lines in self._given.items()}

    def is_new(self, second: int, line: bytes) -> bool:
        """Whether the line was not given yet; it is, from now on."""
        key = hash(line)
        replayed = self._replayed.get(second)
        if replayed and replayed[key]:
            replayed[key] -= 1
            return False
        if second >= self._newest_s - OVERLAP_S:
            self._given.setdefault(second, Counter())[key] += 1
        if second > self._newest_s:
            self._newest_s = second
            for old in [each for each in self._given if each < second - OVERLAP_S]:
                del self._given[old]
        return True


class LogFollower:
    """A thread that hands every line of a container to `put`, until the container has ended."""

    def __init__(
        self,
        api: KubernetesApi,
        container: Container,
        *,
        state: Callable[[], State],
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
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        if self._stream:
            self._stream.close()

    @property
    def is_alive(self) -> bool:
        """Whether there may be more lines."""
        return self._thread.is_alive()

    def _run(self) -> None:
        delay = delays()
        while not self._is_closed:
            state = self._state()  # before reading: what is read to its end after it is all
            try:
                self._read(state)
            except Refusal:  # not started yet, or gone
                if state != "running":
                    return
                pause(next(delay), self._closed)
                continue
            except Outage as error:
                if state == "gone":
                    return
                pause(wanted_delay(error, next(delay)), self._closed)
                continue
            except RLVRError:  # a plugin that brings the token, say; watching tells of it
                pause(next(delay), self._closed)
                continue
            if state != "running":
                return
            delay = delays()
            pause(REOPEN_S, self._closed)

    def _read(self, state: State) -> None:
        """Hand over the lines of one connection; a cut one at its end comes again with the next."""
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
    """All lines that there are by now, of all containers in the order of their time."""
    streams = [_stamped_lines(api, each) for each in containers]
    for _, line in heapq.merge(*streams, key=lambda stamped: stamped[0]):
        yield line


def _stamped_lines(api: KubernetesApi, container: Container) -> Iterator[tuple[float, str]]:
    query: Query = {"container": container.name, "timestamps": True}
    with suppress(Refusal):  # it has not started
        stream = api.stream(container.path, query, read_timeout_s=READ_TIMEOUT_S)
        for line in stream.lines(MAX_LINE_BYTES):
            stamped = split_timestamp(line)
            if stamped:
                yield stamped[0], f"[{container.prefix}] {stamped[1]}"


def split_timestamp(line: bytes) -> tuple[float, str] | None:
    """Seconds since 1970 and the text; None for what the kubelet itself says instead of a log."""
    stamp, _, text = line.rstrip(b"\r\n").partition(b" ")
    try:
        time = datetime.fromisoformat(stamp.decode("ascii"))
    except ValueError:
        return None
    if time.tzinfo is None:
        return None
    return time.timestamp(), text.decode("utf-8", "replace")
