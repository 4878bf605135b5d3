from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rlvr_trainer.launch.exit_causes import Evidence, first_cause
from rlvr_trainer.launch.rank_outcomes import RankEnd, is_peer_failure, read_rank_ends, record_error
from rlvr_trainer.variables import RANK_ENDS_VARIABLE

PREEMPTED = RankEnd(0, 143, "stopped by a signal after a commit")
PEER = RankEnd(0, 138, "RuntimeError: Connection closed by peer", is_peer_failure=True)
REWARDS = RankEnd(1, 5, "the verifier failed on 30 % of the completions")
DISK = RankEnd(0, 138, "the disk is full")


@pytest.mark.parametrize(
    ("evidence", "exit_code", "cause"),
    [
        (Evidence(0), 0, "finished"),
        (Evidence(1, ends=[PEER, REWARDS], failures={1: 5}), 5, "the verifier failed"),
        (Evidence(1, ends=[REWARDS], num_oom_kills=1), 5, "the verifier failed"),
        (Evidence(0, ends=[PREEMPTED]), 143, "after a commit"),
        (Evidence(1, ends=[PREEMPTED, PEER]), 143, "after a commit"),
        (Evidence(1, failures={0: -9}), 138, "rank 0 was killed by SIGKILL"),
        (Evidence(1, ends=[PEER], failures={0: 1, 1: -9}), 138, "rank 1 was killed by SIGKILL"),
        (Evidence(1, failures={2: -7}), 138, "/dev/shm is often too small"),
        (Evidence(1, failures={0: -9}, num_oom_kills=1, memory_limit_gib=2), 137, "is 2 GiB"),
        (Evidence(1, ends=[PEER], num_oom_kills=1), 137, "unknown"),
        (Evidence(-9, num_oom_kills=1), 137, "out of memory"),
        (Evidence(1, ends=[PEER], failures={0: 1}), 138, "another node failed: RuntimeError"),
        (Evidence(1, ends=[DISK, PEER], failures={0: 138}), 138, "the disk is full"),
        (Evidence(1, rendezvous="timed out"), 138, "the nodes did not meet: timed out"),
        (Evidence(1, failures={0: 1}), 1, "rank 0 ended with 1 without a recorded cause"),
        (
            Evidence(1, failures={0: -15}, stop_requested=True),
            143,
            "rank 0 was stopped by a signal",
        ),
        (Evidence(1, failures={0: -15}), 138, "killed by SIGTERM"),
        (Evidence(-15, stop_requested=True), 143, "stopped by a signal"),
        (Evidence(143, stop_requested=True), 143, "stopped by a signal"),
        (Evidence(0, ends=[PREEMPTED], stop_reason="the limit"), 143, "stopped by the limit after"),
        (Evidence(-15, stop_requested=True, stop_reason="the limit"), 143, "stopped by the limit"),
        (Evidence(7), 7, "ended with 7"),
        (Evidence(138), 138, "ended with 138"),
        (Evidence(143), 143, "ended with 143"),
        (Evidence(128 + 9), 138, "killed by SIGKILL"),
    ],
)
def test_the_first_real_cause_decides_the_code(
    evidence: Evidence, exit_code: int, cause: str
) -> None:
    end = first_cause(evidence)
    assert end.exit_code == exit_code
    assert cause in end.cause


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[gloo/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4312"), True),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), True),
        (RuntimeError("shape '[2, 3]' is invalid"), False),
        (ValueError("connection reset by peer"), False),
        (type("DistBackendError", (RuntimeError,), {})("NCCL error"), True),
    ],
)
def test_the_end_of_another_rank_is_distinguished_from_an_own_failure(
    error: Exception, expected: bool
) -> None:
    assert is_peer_failure(error) is expected


@pytest.mark.parametrize(
    ("message", "exit_code"),
    [
        ("CUDA error: uncorrectable ECC error encountered", 138),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", 138),
        ("CUDA error: device-side assert triggered", 1),
    ],
)
def test_a_broken_gpu_is_retried_on_another_node(
    message: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RANK_ENDS_VARIABLE, str(tmp_path))
    record_error(RuntimeError(message))
    (end,) = read_rank_ends(tmp_path)
    assert (end.exit_code, end.is_peer_failure) == (exit_code, False)


def test_every_signal_that_ends_a_rank_may_be_retried() -> None:
    for number in signal.valid_signals():
        assert first_cause(Evidence(1, failures={0: -number})).is_retried
