"""Send and follow the metrics.jsonl of a run directory while it grows.

S3 cannot append, so each new piece is an object of its own, named by the byte at which it begins
(`metrics/000000004096.jsonl`). When an attempt ends, metrics.jsonl holds all of them, and a reader
takes the pieces that begin after it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath

from rlvr_trainer.run_dir.layout import METRICS, METRICS_PARTS
from rlvr_trainer.storage import Storage


class MetricsSender:
    """Sender of a node's file to the run directory in S3, complete lines only."""

    def __init__(self, file: Path, storage: Storage) -> None:
        self._file, self._storage = file, storage
        self._num_sent = self._num_joined = 0

    def fetch(self) -> None:
        """Write what earlier attempts sent to the beginning of the file."""
        content = read_metrics(self._storage)
        if content:
            self._file.write_bytes(content)
        self._num_sent = self._num_joined = len(content)

    def send(self) -> None:
        """Send the appended lines. Raises ConfigError, PlatformError, OSError."""
        new = self._lines_from(self._num_sent)
        if new:
            self._storage.write_bytes(f"{METRICS_PARTS}/{self._num_sent:012}.jsonl", new)
            self._num_sent += len(new)

    def join(self) -> None:
        """Send the last piece, and then metrics.jsonl. Raises as `send`."""
        self.send()
        if self._num_sent > self._num_joined:
            self._storage.write_bytes(METRICS, self._lines_from(0))
            self._num_joined = self._num_sent

    def _lines_from(self, offset: int) -> bytes:
        if not self._file.is_file():
            return b""
        with self._file.open("rb") as file:
            file.seek(offset)
            content = file.read()
        return content[: content.rfind(b"\n") + 1]


class MetricsFollower:
    """Reader of a growing metrics.jsonl on a disk or in S3."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._offset = 0
        self._before_last_part = ""
        self._half_line = b""

    def new_lines(self) -> list[bytes]:
        """Return the complete lines since the last call. Raises ConfigError, PlatformError."""
        *lines, self._half_line = (self._half_line + self._new_bytes()).split(b"\n")
        return lines

    def _new_bytes(self) -> bytes:
        offset, content = self._offset, b""
        with suppress(FileNotFoundError):  # in S3 it does not exist before the first attempt ends
            content = self._storage.read_from(METRICS, offset)
        offset += len(content)
        parts = sorted(self._storage.sizes(METRICS_PARTS, after=self._before_last_part).items())
        for key, size in parts:
            start = int(PurePosixPath(key).stem)
            if start + size > offset:
                part = self._storage.read_from(key, max(offset - start, 0))
                content += part
                offset = max(offset, start) + len(part)
        self._offset = offset  # not before: after a failure above, the same is read again
        if len(parts) > 1:  # the last one may grow: a send whose response was lost is repeated
            self._before_last_part = parts[-2][0]
        return content


def read_metrics(storage: Storage) -> bytes:
    """Return all complete lines of a run directory's metrics."""
    return b"".join(line + b"\n" for line in MetricsFollower(storage).new_lines())
