"""The ends of a job's pods, kept since the operator takes away those that it starts again.

And which of them end the job: the operator of PyTorchJobs counts nothing, and starts a container
that ran out of memory, or never could start, for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rlvr_components.jobs.kube import names
from rlvr_components.jobs.kube.causes import PodEnd, pod_end
from rlvr_components.jobs.kube.deadlines import Exceeded
from rlvr_components.jobs.kube.kinds import Kind, Object
from rlvr_trainer.launch.attempts import MAX_OUT_OF_MEMORY
from rlvr_trainer.launch.causes import (
    EXIT_NO_ATTEMPTS_LEFT,
    EXIT_OUT_OF_MEMORY,
    FIRST_SIGNAL_CODE,
)

PERMANENT_S = 15.0
"""A container that ended for good ends its job within this; else whoever starts it is stopped."""


class Ends:
    """How pods of one job ended so far. `job` as it was when this launcher met it."""

    def __init__(self, kind: Kind, job: Object) -> None:
        self._kind = kind
        self._ends: dict[str, PodEnd] = {}
        self._permanent_since: float | None = None
        recorded = (job["metadata"].get("annotations") or {}).get(names.OUT_OF_MEMORY, "")
        self._out_of_memory: list[str] = str(recorded).split()

    def note(self, pods: Sequence[Object]) -> Iterator[PodEnd]:
        """Those that failed and were not noted yet."""
        for pod in pods:
            uid, end = str(pod["metadata"]["uid"]), pod_end(self._kind, pod)
            if end is None or uid in self._ends:
                continue
            self._ends[uid] = end
            key = f"{end.replica}/{uid}"
            if end.exit_code == EXIT_OUT_OF_MEMORY and key not in self._out_of_memory:
                self._out_of_memory.append(key)
            yield end

    @property
    def last(self) -> PodEnd | None:
        """The newest."""
        return list(self._ends.values())[-1] if self._ends else None

    @property
    def annotations(self) -> dict[str, str]:
        """What the next launcher must know of it."""
        return {names.OUT_OF_MEMORY: " ".join(self._out_of_memory)} if self._out_of_memory else {}

    def exceeded(self, now: float) -> Exceeded | None:
        """Why the job is to be ended although its operator goes on; `now` is monotonic."""
        per_replica = Counter(each.partition("/")[0] for each in self._out_of_memory)
        ooms = [each for each in self._ends.values() if each.exit_code == EXIT_OUT_OF_MEMORY]
        if ooms and per_replica[ooms[-1].replica] >= MAX_OUT_OF_MEMORY:
            return Exceeded(f"for the second time {ooms[-1]}", EXIT_NO_ATTEMPTS_LEFT)
        permanent = [each for each in self._ends.values() if each.exit_code < FIRST_SIGNAL_CODE]
        if not permanent or not self._kind.replaces_pods:  # the others may still commit
            return None
        if self._permanent_since is None:
            self._permanent_since = now
        if now - self._permanent_since < PERMANENT_S:
            return None
        return Exceeded(str(permanent[0]), permanent[0].exit_code)
