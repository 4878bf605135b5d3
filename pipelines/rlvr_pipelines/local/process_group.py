"""A child process in its own process group, all of which can be killed."""

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
    """A process that leads its own session and group, and everything that it starts."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        output: IO[bytes],
        keep_open: Iterable[int] = (),
    ) -> None:
        # However this process terminates, the child then reads the end of its standard input.
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
        """The id of the group and of its leader."""
        return self._leader.pid

    def poll(self) -> int | None:
        """Return the leader's return code once it has terminated."""
        return self._leader.poll()

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the group."""
        # macOS refuses when only zombies are left
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.id, number)

    def is_alive(self) -> bool:
        """Return True while a process of the group runs; an unreaped zombie does not count."""
        self._leader.poll()  # reaps it
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getpgid(process.pid) == self.id and process.status() not in ENDED:
                    return True
        return False

    def kill(self) -> None:
        """Kill all processes of the group."""
        deadline = time.monotonic() + KILL_WAIT_S
        while self.is_alive() and time.monotonic() < deadline:
            self.signal(signal.SIGKILL)
            time.sleep(0.02)
        self._leader.wait()
        if self._leader.stdin:
            self._leader.stdin.close()
