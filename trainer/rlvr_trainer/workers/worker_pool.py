"""Call a function in worker processes, side by side and each call with a time limit.

A worker that exceeds the limit is killed, and the next call gets a new one. Workers start when they
are needed, and end with this process.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

START_LIMIT_S = 300
"""Time limit for a worker to make its function, imports included."""


class WorkerFailure(Exception):
    """A call that raised, took too long or ended its worker, for the reason in the message."""


class WorkerPool:
    """Processes that call a function.

    `factory` is `module:function`; called with `arguments` in each worker, it returns the function.
    Arguments and results are JSON values.
    """

    def __init__(self, factory: str, arguments: Sequence[Any] = (), num_workers: int = 0) -> None:
        self._start = {"factory": factory, "arguments": list(arguments)}
        self.num_workers = num_workers or default_num_workers()
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def call(self, calls: Sequence[Sequence[Any]], timeout_s: float) -> list[Any]:
        """Return the result of each call, by its arguments, or a WorkerFailure."""
        with self._lock, selectors.DefaultSelector() as ready:
            results: list[Any] = [None] * len(calls)
            pending, busy = deque(range(len(calls))), set[_Worker]()
            try:
                while pending or busy:
                    while pending and len(busy) < self.num_workers:
                        worker = self._idle_worker()
                        index = pending.popleft()
                        worker.send(index, calls[index], timeout_s)
                        ready.register(worker.replies, selectors.EVENT_READ, worker)
                        busy.add(worker)
                    wait_s = min(worker.deadline for worker in busy) - time.monotonic()
                    readable = {key.data for key, _ in ready.select(max(0.0, wait_s))}
                    for worker in list(busy):
                        outcome = worker.outcome(is_readable=worker in readable)
                        if outcome is _WAITING:
                            continue
                        ready.unregister(worker.replies)
                        busy.remove(worker)
                        results[worker.index] = outcome
                        if isinstance(outcome, _Ended):
                            worker.end()
                        else:
                            self._idle.append(worker)
            finally:
                for worker in busy:
                    worker.end()
            return results

    def _idle_worker(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            worker.end()
        return _Worker(self._start)

    def close(self) -> None:
        """End the workers."""
        for worker in self._idle:
            worker.end()
        self._idle.clear()


_WAITING = object()


class _Ended(WorkerFailure):
    """A failure after which the worker cannot be called again."""


class _Worker:
    """A process that makes a function, then serves one call at a time."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rlvr_trainer.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._calls, self.replies = self._process.stdin, self._process.stdout
        self._is_ready = False
        self._write({**start, "path": sys.path})
        self.index = 0
        """Number of the call."""
        self.deadline = 0.0
        self._timeout_s = 0.0
        self._arguments: Sequence[Any] = ()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, index: int, arguments: Sequence[Any], timeout_s: float) -> None:
        """Send a call, or keep it until the function is made."""
        self.index, self._arguments, self._timeout_s = index, arguments, timeout_s
        if self._is_ready:
            self._begin()
        else:
            self.deadline = time.monotonic() + START_LIMIT_S

    def outcome(self, *, is_readable: bool) -> Any:
        """Return the result of the call, a WorkerFailure, or _WAITING."""
        if not is_readable:
            if time.monotonic() < self.deadline:
                return _WAITING
            limit_s = self._timeout_s if self._is_ready else START_LIMIT_S
            what = "took" if self._is_ready else "cannot start: it took"
            return _Ended(f"{what} longer than {limit_s:g} s, so its worker was killed")
        line = self.replies.readline()
        if not line:
            return _Ended(f"ended its worker with exit code {self._process.wait()}")
        reply = json.loads(line)
        if self._is_ready:
            return (
                WorkerFailure(f"raised {reply['raised']}") if "raised" in reply else reply["value"]
            )
        if "raised" in reply:
            return _Ended(f"cannot start: it raised {reply['raised']}")
        self._is_ready = True
        self._begin()
        return _WAITING

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        for pipe in (self._calls, self.replies):
            with suppress(OSError):
                pipe.close()
        self._process.wait()

    def _begin(self) -> None:
        self.deadline = time.monotonic() + self._timeout_s
        self._write(list(self._arguments))

    def _write(self, value: Any) -> None:
        with suppress(OSError):  # if it has ended, its replies end too
            self._calls.write(json.dumps(value, default=str).encode() + b"\n")
            self._calls.flush()


@lru_cache(maxsize=32)
def worker_pool(factory: str, *arguments: Any, num_workers: int = 0) -> WorkerPool:
    """Return this process's pool for a function."""
    return WorkerPool(factory, arguments, num_workers)


def default_num_workers() -> int:
    """Return this process's share of the machine's cores."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
