"""Merge several streams of lines."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping

MAX_WAITING_LINES = 1000


def merge_lines(streams: Mapping[str, Iterator[str]]) -> Iterator[str]:
    """Yield the lines as they arrive, each after its stream's name; raise a stream's error."""
    lines: queue.Queue[str | BaseException | None] = queue.Queue(MAX_WAITING_LINES)
    width = max(map(len, streams), default=0)

    def read(name: str, stream: Iterator[str]) -> None:
        try:
            for line in stream:
                lines.put(f"{name:<{width}}  {line}")
            lines.put(None)
        except BaseException as error:  # raised by the reader of the lines
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
