"""Of all that ended in a pod, the first real cause, and the exit code that says what to do next."""

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
    signal.SIGABRT: "; NCCL's watchdog ends a rank so when another one is gone",
}


@dataclass(frozen=True)
class End:
    """The end of an attempt on this node."""

    exit_code: int
    cause: str

    @property
    def is_retried(self) -> bool:
        """Whether the operator starts the pod again."""
        return self.exit_code in RETRIED


@dataclass(frozen=True)
class Evidence:
    """All that is known once the child has ended."""

    exit_code: int
    """Of the child itself; negative: the signal that ended it."""
    ends: Sequence[RankEnd] = ()
    """What its ranks wrote."""
    failures: Mapping[int, int] = field(default_factory=dict)
    """Exit codes of the ranks that failed first, by rank; negative: a signal."""
    rendezvous: str | None = None
    """Why torchrun did not find the other nodes."""
    stop_requested: bool = False
    num_oom_kills: int = 0
    memory_limit_gib: float | None = None


def first_cause(evidence: Evidence) -> End:
    """The cause that made the others, and the code to end with.

    What is permanent comes first: it would come back. That another rank is gone comes last: the
    node on which that happened says why.
    """
    permanent = [end for end in evidence.ends if end.exit_code < FIRST_SIGNAL_CODE]
    if permanent:
        return End(permanent[0].exit_code, permanent[0].cause)
    if any(end.exit_code == EXIT_PREEMPTED for end in evidence.ends):
        # all ranks agree on a stop and commit before any of them says so
        return End(EXIT_PREEMPTED, "stopped by a signal after a commit; another attempt continues")
    if evidence.exit_code == 0:
        return End(0, "finished")
    if evidence.num_oom_kills:
        return _out_of_memory(evidence)
    own = [end for end in evidence.ends if not end.is_peer_failure]
    if own:
        return End(own[0].exit_code, own[0].cause)
    said = {end.rank for end in evidence.ends}
    silent = {rank: code for rank, code in evidence.failures.items() if rank not in said}
    if silent:
        rank, code = min(silent.items())
        return _ended(f"rank {rank}", code, evidence)
    if evidence.ends:
        return End(EXIT_INFRASTRUCTURE, f"another node failed: {evidence.ends[0].cause}")
    if evidence.rendezvous:
        return End(EXIT_INFRASTRUCTURE, f"the nodes did not meet: {evidence.rendezvous}")
    return _ended("the process", evidence.exit_code, evidence)


def _ended(who: str, code: int, evidence: Evidence) -> End:
    """The end of a process that wrote nothing; `code` is negative or 128 + n for a signal."""
    if code == EXIT_PREEMPTED and evidence.stop_requested:
        return End(code, "stopped by a signal")
    if code in (EXIT_INFRASTRUCTURE, EXIT_PREEMPTED):
        return End(code, f"{who} ended with {code}")
    if 0 < code < FIRST_SIGNAL_CODE:
        return End(code, f"{who} ended with {code} and wrote no cause; its log may say why")
    number = -code if code < 0 else code - FIRST_SIGNAL_CODE
    try:
        name = signal.Signals(number).name
    except ValueError:
        return End(EXIT_INFRASTRUCTURE, f"{who} ended with {code}")
    if evidence.stop_requested and number in (signal.SIGTERM, signal.SIGINT):
        return End(EXIT_PREEMPTED, f"{who} was stopped by a signal before it could commit")
    hint = SIGNAL_HINTS.get(signal.Signals(number), "")
    return End(EXIT_INFRASTRUCTURE, f"{who} was killed by {name}{hint}")


def _out_of_memory(evidence: Evidence) -> End:
    limit = evidence.memory_limit_gib
    return End(
        EXIT_OUT_OF_MEMORY,
        "out of memory: the kernel killed a process of this container, whose limit is "
        f"{'not known' if limit is None else f'{limit:.3g} GiB'}; raise the memory limit, or lower "
        "training.per_device_batch_size or sampling.max_completion_tokens",
    )
