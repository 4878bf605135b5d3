"""Find the first real cause of a pod's termination, and its exit code."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlvr_trainer.errors import EXIT_PREEMPTED, PlatformError
from rlvr_trainer.launch.rank_outcomes import RankEnd

EXIT_INFRASTRUCTURE = PlatformError.exit_code
EXIT_OUT_OF_MEMORY = 137
EXIT_NO_ATTEMPTS_LEFT = 9
RETRIED = {EXIT_OUT_OF_MEMORY, EXIT_INFRASTRUCTURE, EXIT_PREEMPTED}
FIRST_SIGNAL_CODE = 128

SIGNAL_HINTS = {
    signal.SIGBUS: "; /dev/shm is often too small then: mount a memory emptyDir there",
    signal.SIGABRT: "; NCCL's watchdog aborts a rank if another one is gone",
}


@dataclass(frozen=True)
class End:
    """The termination of an attempt on this node."""

    exit_code: int
    cause: str

    @property
    def is_retried(self) -> bool:
        """True if the operator restarts the pod."""
        return self.exit_code in RETRIED


@dataclass(frozen=True)
class Evidence:
    """All that is known about the termination of the child."""

    exit_code: int
    """Exit code of the child itself; negative: a signal."""
    ends: Sequence[RankEnd] = ()
    """Records of its ranks."""
    failures: Mapping[int, int] = field(default_factory=dict)
    """Exit codes of the ranks that failed first, by rank; negative: a signal."""
    rendezvous: str | None = None
    """The error by which torchrun did not find the other nodes."""
    stop_requested: bool = False
    stop_reason: str = "a signal"
    num_oom_kills: int = 0
    memory_limit_gib: float | None = None


def first_cause(evidence: Evidence) -> End:
    """Return the cause of the others, and the exit code.

    Permanent failures come first, since they would occur again. The loss of another rank comes
    last: the node where it happened reports why.
    """
    permanent = [end for end in evidence.ends if end.exit_code < FIRST_SIGNAL_CODE]
    if permanent:
        return End(permanent[0].exit_code, permanent[0].cause)
    if any(end.exit_code == EXIT_PREEMPTED for end in evidence.ends):
        # all ranks agree on a stop and commit before any of them records it
        return End(
            EXIT_PREEMPTED,
            f"stopped by {evidence.stop_reason} after a commit; another attempt continues",
        )
    if evidence.exit_code == 0:
        return End(0, "finished")
    if evidence.num_oom_kills:
        return _out_of_memory(evidence)
    own = [end for end in evidence.ends if not end.is_peer_failure]
    if own:
        return End(own[0].exit_code, own[0].cause)
    recorded = {end.rank for end in evidence.ends}
    silent = {rank: code for rank, code in evidence.failures.items() if rank not in recorded}
    if silent:
        rank, code = min(silent.items())
        return _ended(f"rank {rank}", code, evidence)
    if evidence.ends:
        return End(EXIT_INFRASTRUCTURE, f"another node failed: {evidence.ends[0].cause}")
    if evidence.rendezvous:
        return End(EXIT_INFRASTRUCTURE, f"the nodes did not meet: {evidence.rendezvous}")
    return _ended("the process", evidence.exit_code, evidence)


def _ended(who: str, code: int, evidence: Evidence) -> End:
    """Return the End of a process without record; `code` is negative or 128 + n for a signal."""
    if code == EXIT_PREEMPTED and evidence.stop_requested:
        return End(code, f"stopped by {evidence.stop_reason}")
    if code in (EXIT_INFRASTRUCTURE, EXIT_PREEMPTED):
        return End(code, f"{who} ended with {code}")
    if 0 < code < FIRST_SIGNAL_CODE:
        return End(code, f"{who} ended with {code} without a recorded cause; see its log")
    number = -code if code < 0 else code - FIRST_SIGNAL_CODE
    try:
        name = signal.Signals(number).name
    except ValueError:
        return End(EXIT_INFRASTRUCTURE, f"{who} ended with {code}")
    if evidence.stop_requested and number in (signal.SIGTERM, signal.SIGINT):
        return End(
            EXIT_PREEMPTED, f"{who} was stopped by {evidence.stop_reason} before it could commit"
        )
    hint = SIGNAL_HINTS.get(signal.Signals(number), "")
    return End(EXIT_INFRASTRUCTURE, f"{who} was killed by {name}{hint}")


def _out_of_memory(evidence: Evidence) -> End:
    limit = evidence.memory_limit_gib
    return End(
        EXIT_OUT_OF_MEMORY,
        "out of memory: the kernel killed a process of this container, whose limit is "
        f"{'unknown' if limit is None else f'{limit:.3g} GiB'}; raise the memory limit, or lower "
        "training.per_device_batch_size or sampling.max_completion_tokens",
    )
