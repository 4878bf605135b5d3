"""Follow the log lines of all replicas of a job, across all of their pods."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from rlvr_components.jobs.kinds import Kind, Object
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.kubernetes.container_logs import Container, ContainerState, LogFollower

MAX_QUEUED_LINES = 1000
PUT_S = 0.2


class ReplicaLogs:
    """Follows every container that trains from its start, in a thread of its own.

    `pods` returns the current pods.
    """

    def __init__(
        self, api: KubernetesApi, kind: Kind, pods: Callable[[], Sequence[Object]]
    ) -> None:
        self._api = api
        self._kind = kind
        self._pods = pods
        self._queue: queue.Queue[str] = queue.Queue(MAX_QUEUED_LINES)
        self._followers: dict[tuple[str, int], LogFollower] = {}
        self._is_closed = False

    def follow(self, pods: Sequence[Object]) -> None:
        """Start following the containers that have started since the last call."""
        for pod in pods:
            container = container_of(self._kind, pod)
            status = _status(self._kind, pod)
            if container is None or status is None:
                continue
            key = (str(pod["metadata"]["uid"]), int(status.get("restartCount", 0)))
            if key not in self._followers:
                self._followers[key] = LogFollower(
                    self._api, container, state=partial(self._state, *key), put=self._put
                )
                self._followers[key].start()

    def take(self, timeout_s: float) -> Iterator[str]:
        """Yield the lines that have arrived; wait up to `timeout_s` for the first one."""
        try:
            yield self._queue.get(timeout=timeout_s)
            for _ in range(MAX_QUEUED_LINES):
                yield self._queue.get_nowait()
        except queue.Empty:
            return

    @property
    def is_complete(self) -> bool:
        """True if no more lines will arrive."""
        return self._queue.empty() and not any(
            follower.is_alive for follower in self._followers.values()
        )

    def close(self) -> None:
        """Stop all threads."""
        self._is_closed = True
        for follower in self._followers.values():
            follower.close()

    def _put(self, line: str) -> None:
        """Wait for room in the queue, so that a slow reader does not fill the memory."""
        while not self._is_closed:
            try:
                self._queue.put(line, timeout=PUT_S)
            except queue.Full:
                continue
            return

    def _state(self, uid: str, num_restarts: int) -> ContainerState:
        """Return the state of one run of a container, from the newest version of its pod."""
        pod = next((pod for pod in self._pods() if pod["metadata"]["uid"] == uid), None)
        if pod is None:
            return "gone"
        status = _status(self._kind, pod) or {}
        if int(status.get("restartCount", num_restarts)) > num_restarts:
            return "restarted"
        return "running" if "running" in status.get("state", {}) else "terminated"


def container_of(kind: Kind, pod: Object) -> Container | None:
    """Return the container that trains; None before it has started."""
    state = (_status(kind, pod) or {}).get("state", {})
    if "running" not in state and "terminated" not in state:
        return None
    metadata: dict[str, Any] = pod["metadata"]
    return Container(
        metadata["namespace"], metadata["name"], kind.container, kind.replica_name(pod)
    )


def _status(kind: Kind, pod: Object) -> Object | None:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return next((status for status in statuses if status["name"] == kind.container), None)
