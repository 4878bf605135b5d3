"""Run the child of a pod, torchrun or another command, and collect evidence of its end."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from rlvr_trainer.launch.cgroup import memory_limit_gib, num_oom_kills
from rlvr_trainer.launch.elastic import TORCHRUN_END
from rlvr_trainer.launch.exit_causes import Evidence
from rlvr_trainer.launch.rank_outcomes import read_rank_ends
from rlvr_trainer.variables import RANK_ENDS_VARIABLE

POLL_S = 0.1
KILL_TIMEOUT_S = 10.0
"""A process that waits for a device cannot be killed; it ends with the container."""
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class StopRequest:
    """A flag that SIGTERM, SIGINT and a deadline set."""

    def __init__(self) -> None:
        self.reason = "a signal"
        self._signalled = False
        self._deadline: float | None = None

    @property
    def requested(self) -> bool:
        """True from the first signal on, or from the deadline on."""
        return self._signalled or (
            self._deadline is not None and time.monotonic() >= self._deadline
        )

    def after(self, seconds: float, reason: str) -> None:
        """Request a stop after that time; `reason` is what the stop is reported with."""
        self._deadline, self.reason = time.monotonic() + seconds, reason

    def install(self) -> None:
        """Handle the signals of this process; must be called from its main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.reason = "a signal"
        self._signalled = True


def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    stop: StopRequest,
    ends_dir: Path,
    *,
    signal_ranks: bool = False,
) -> Evidence:
    """Run the command to its end and return the evidence; kill all descendants that are left.

    A stop is passed on once, as SIGTERM: to the child, or with `signal_ranks` only to its children,
    since torchrun would kill ranks that are still committing.
    """
    _adopt_orphans()
    ooms_before = num_oom_kills()
    child = subprocess.Popen(
        command,
        env={**environment, RANK_ENDS_VARIABLE: str(ends_dir)},
        start_new_session=True,  # a terminal's ^C reaches this process only
    )
    signalled: set[int] = set()
    has_ranks = False
    try:
        while child.poll() is None:
            if signal_ranks and (stop.requested or not has_ranks):
                ranks = _children(child.pid)
                has_ranks = has_ranks or bool(ranks)
            else:
                ranks = []
            if stop.requested:
                _terminate(ranks if has_ranks else [child.pid], signalled)
            time.sleep(POLL_S)
    finally:
        _kill_what_is_left()
    torchrun = _read_torchrun_end(ends_dir)
    return Evidence(
        exit_code=child.returncode,
        ends=read_rank_ends(ends_dir),
        failures={int(rank): code for rank, code in torchrun.get("failures", {}).items()},
        rendezvous=torchrun.get("rendezvous"),
        stop_requested=stop.requested,
        stop_reason=stop.reason,
        num_oom_kills=num_oom_kills() - ooms_before,
        memory_limit_gib=memory_limit_gib(),
    )


def _terminate(pids: Sequence[int], signalled: set[int]) -> None:
    for pid in set(pids) - signalled:
        signalled.add(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _read_torchrun_end(ends_dir: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        end: dict[str, Any] = json.loads((ends_dir / TORCHRUN_END).read_text("utf-8"))
        return end
    return {}


def _adopt_orphans() -> None:
    """Become the parent of orphaned descendants, as PID 1 does."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_what_is_left() -> None:
    """Kill all descendants, including orphans."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while (left := list(_descendants(os.getpid()))) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(POLL_S / 10)


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _children(pid: int) -> list[int]:
    return [child for child, parent in _parents() if parent == pid]


def _parents() -> Iterator[tuple[int, int]]:
    """Yield (pid, parent pid) of all processes from /proc, if it exists."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # "pid (name) state parent …", and a name may contain anything
            after_name = (folder / "stat").read_text().rpartition(")")[2]
            yield int(folder.name), int(after_name.split()[1])
