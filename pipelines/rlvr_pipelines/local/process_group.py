"""A child process with a process group of its own, of which nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO

import psutil

KILL_WAIT_S = 5.0
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


class ProcessGroup:
    """A process that leads a session and group of its own, and all that it starts."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        output: IO[bytes],
        keep_open: Iterable[int] = (),
    ) -> None:
        # The child reads its standard input's end when this process is gone, however it went.
        self._leader = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )

    @property
    def id(self) -> int:
        """Of the group, and of its leader."""
        return self._leader.pid

    def poll(self) -> int | None:
        """The leader's return code once it has ended."""
        return self._leader.poll()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the group that is left."""
        # macOS refuses when only zombies are left
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.id, number)

    def is_alive(self) -> bool:
        """Whether any process of the group still runs."""
        self._leader.poll()  # so that it does not stay as a zombie
        return _any_alive(self.id)

    def kill(self) -> None:
        """End whatever is left of the group, at once."""
        deadline = time.monotonic() + KILL_WAIT_S
        while self.is_alive() and time.monotonic() < deadline:
            self.signal(signal.SIGKILL)
            time.sleep(0.02)
        self._leader.wait()
        if self._leader.stdin:
            self._leader.stdin.close()


def _any_alive(group: int) -> bool:
    """Return whether a process of the group runs; a zombie that nobody collects does not count."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() not in ENDED:
                return True
    return False
