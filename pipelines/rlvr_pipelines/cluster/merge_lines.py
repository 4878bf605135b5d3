"""Several streams of lines as one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping

MAX_WAITING_LINES = 1000


def merge_lines(streams: Mapping[str, Iterator[str]]) -> Iterator[str]:
    """The lines as they come, each after its stream's name; an error of any stream is raised."""
    lines: queue.Queue[str | BaseException | None] = queue.Queue(MAX_WAITING_LINES)
    width = max(map(len, streams), default=0)

    def read(name: str, stream: Iterator[str]) -> None:
        try:
            for line in stream:
                lines.put(f"{name:<{width}}  {line}")
            lines.put(None)
        except BaseException as error:  # for whoever reads the lines
            lines.put(error)

    for name, stream in streams.items():
        threading.Thread(target=read, args=(name, stream), daemon=True).start()
    num_open = len(streams)
    while num_open:
        item = lines.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            num_open -= 1
        else:
            yield item
