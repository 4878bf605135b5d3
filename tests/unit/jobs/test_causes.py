"""Derive the cause of a job's failure from the cluster's objects."""

from __future__ import annotations

import pytest

from rlvr_components.jobs.cluster.job_causes import first_failure, job_failure, pod_failure
from rlvr_components.jobs.cluster.job_status import status_of
from rlvr_components.jobs.cluster.limits import PERMANENT_S, PodFailures
from rlvr_components.jobs.kinds import PYTORCHJOB, TRAINJOB, Kind

from .objects import FAILED, Object, condition, pod, pytorchjob, said, terminated

EVICTED = {
    "reason": "Evicted",
    "message": "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi.",
}
PREEMPTED = condition(
    "DisruptionTarget",
    "default-scheduler: preempting to accommodate a higher priority pod",
    reason="PreemptionByScheduler",
)


@pytest.mark.parametrize(
    ("failed", "exit_code", "cause"),
    [
        pytest.param(
            pod(phase="Failed", state=terminated(3, message=said("no rows", 3))),
            *(3, "no rows"),
            id="the container's own words",
        ),
        pytest.param(
            pod(phase="Failed", state=terminated(137, reason="OOMKilled")),
            *(137, "out of memory (OOMKilled): the container's limit is 40Gi; raise"),
            id="out of memory, with the limit",
        ),
        pytest.param(
            pod(
                phase="Failed",
                state=terminated(
                    137, reason="OOMKilled", message=said("out of memory: … 2 GiB", 137)
                ),
            ),
            *(137, "out of memory: … 2 GiB"),
            id="a child out of memory",
        ),
        pytest.param(
            pod(phase="Failed", state=terminated(137)),
            *(138, "killed by SIGKILL, and not by its memory limit"),
            id="killed by hand",
        ),
        pytest.param(
            pod(phase="Failed", state=terminated(143)),
            *(143, "it was stopped by SIGTERM"),
            id="stopped",
        ),
        pytest.param(
            pod(phase="Failed", state=terminated(1)),
            *(1, "exited with code 1 and wrote no cause; see its log"),
            id="silent",
        ),
        pytest.param(
            pod(
                phase="Failed",
                state=terminated(
                    128, reason="StartError", message='exec: "pyton": executable file not found'
                ),
            ),
            *(2, 'the container cannot start: exec: "pyton": executable file not found'),
            id="a command that is not there would be tried for ever",
        ),
        pytest.param(
            pod(phase="Failed", **EVICTED),
            *(138, "Evicted: The node was low on resource: ephemeral-storage"),
            id="evicted",
        ),
        pytest.param(
            pod(phase="Failed", state=terminated(137), **EVICTED),
            *(138, "Evicted: The node was low on resource"),
            id="evicted with a status",
        ),
        pytest.param(
            pod(phase="Failed", state=terminated(137), conditions=[PREEMPTED]),
            *(138, "PreemptionByScheduler: default-scheduler: preempting to accommodate"),
            id="preempted",
        ),
        pytest.param(
            pod(phase="Failed"), *(138, "its node node-a was lost"), id="node lost, no statuses"
        ),
        pytest.param(
            pod(phase="Failed", state=terminated(137, reason="ContainerStatusUnknown")),
            *(138, "its node node-a was lost"),
            id="node lost, state unknown",
        ),
        pytest.param(
            pod(phase="Failed", reason="UnexpectedAdmissionError", message="no healthy devices"),
            *(138, "UnexpectedAdmissionError: no healthy devices (node node-a)"),
            id="refused by its node",
        ),
        pytest.param(
            pod(phase="Failed", init=terminated(1, message="rlvr-master-0 has no address")),
            *(138, "its init container init-pytorch exited with 1: rlvr-master-0 has no address"),
            id="init container",
        ),
    ],
)
def test_a_failed_pod_has_a_cause(failed: Object, exit_code: int, cause: str) -> None:
    end = pod_failure(PYTORCHJOB, failed)

    assert end is not None
    assert cause in end.cause
    assert (end.exit_code, end.replica) == (exit_code, "worker-0")


@pytest.mark.parametrize(
    "healthy", [pod(), pod(phase="Succeeded", state=terminated(0)), pod(phase="Pending")]
)
def test_a_pod_that_did_not_fail_has_none(healthy: Object) -> None:
    assert pod_failure(PYTORCHJOB, healthy) is None


def test_the_first_to_fail_is_the_cause() -> None:
    later = pod("master-0", "Failed", terminated(138, message=said("rank 0 died", 138)))
    first = pod(
        "worker-1", "Failed", terminated(138, message=said("rank 1 died", 138), at="03:09:59")
    )

    end = first_failure(PYTORCHJOB, [later, first])

    assert end is not None
    assert str(end) == "worker-1: rank 1 died"


def test_a_pod_that_lost_its_peer_is_never_the_first_cause() -> None:
    peer = said("another node failed: connection reset", 138)
    follower = pod("master-0", "Failed", terminated(138, message=peer, at="03:09:00"))
    cause = pod("worker-1", "Failed", terminated(6, message=said("the loss is not finite", 6)))

    end = first_failure(PYTORCHJOB, [follower, cause])

    assert end is not None
    assert (end.replica, end.exit_code) == ("worker-1", 6)


def test_a_terminated_pod_ranks_below_a_failed_one() -> None:
    stopped = pod("master-0", "Failed", terminated(143, at="03:09:00"))
    cause = pod("worker-1", "Failed", terminated(137, reason="OOMKilled"))

    end = first_failure(PYTORCHJOB, [stopped, cause])

    assert end is not None
    assert end.replica == "worker-1"


def test_the_permanent_one_of_two_simultaneous_failures_counts() -> None:
    passing = pod("master-0", "Failed", terminated(138, message=said("a rank died", 138)))
    permanent = pod("worker-0", "Failed", terminated(5, message=said("rewards fail", 5)))

    end = first_failure(PYTORCHJOB, [passing, permanent])

    assert end is not None
    assert end.exit_code == 5


def test_a_failed_job_says_the_cause_of_its_first_pod() -> None:
    status = status_of(
        PYTORCHJOB,
        pytorchjob("tiny", FAILED),
        [pod("master-0", "Failed", terminated(3, message=said("no rows", 3)))],
    )

    assert (status.phase, status.exit_code, status.cause) == ("failed", 3, "master-0: no rows")
    assert not status.is_retried


@pytest.mark.parametrize(("exit_code", "is_retried"), [(138, True), (143, True), (9, False)])
def test_a_transient_failure_is_retried(exit_code: int, is_retried: bool) -> None:
    failed = pod("master-0", "Failed", terminated(exit_code, message=said("x", exit_code)))

    status = status_of(PYTORCHJOB, pytorchjob("tiny", FAILED), [failed])

    assert status.is_retried is is_retried


def test_a_job_that_was_active_for_too_long_says_so() -> None:
    message = "Job tiny has failed because it was active longer than specified deadline"
    job = pytorchjob("tiny", condition("Failed", message))

    failure = job_failure(PYTORCHJOB, job, [])

    assert failure is not None
    assert "run_timeout_s" in failure[0]
    assert failure[1] == 7


def test_a_failed_job_without_pods_has_the_operators_message() -> None:
    failure = job_failure(PYTORCHJOB, pytorchjob("tiny", FAILED), [])

    assert failure is not None
    assert failure[0].startswith("PyTorchJob tiny is failed because 1 Worker replica(s) failed.")


def test_a_recorded_cause_outlives_the_pods() -> None:
    recorded = {"rlvr.dev/cause": "worker-0: no rows", "rlvr.dev/exit-code": "3"}
    status = status_of(PYTORCHJOB, pytorchjob("tiny", FAILED, annotations=recorded), [])

    assert (status.exit_code, status.cause) == (3, "worker-0: no rows")


def test_a_trainjob_ends_by_its_own_conditions() -> None:
    job = {"metadata": {"name": "t"}, "spec": {"trainer": {"numNodes": 2}}, "status": {}}
    done = {**job, "status": {"conditions": [condition("Complete")]}}
    failed = {**job, "status": {"conditions": [condition("Failed", "jobset failed")]}}

    assert status_of(TRAINJOB, done, []).phase == "succeeded"
    assert status_of(TRAINJOB, failed, []).cause.startswith("jobset failed")
    assert TRAINJOB.num_replicas(job) == 2


@pytest.mark.parametrize(("kind", "is_ended"), [(PYTORCHJOB, True), (TRAINJOB, False)])
def test_endless_restarts_are_stopped_and_a_trainjob_is_left_to_terminate(
    kind: Kind, is_ended: bool
) -> None:
    job = pytorchjob()
    job["spec"]["trainer"] = {"numNodes": 2}
    seen = PodFailures(kind, job)
    failed = pod(phase="Failed", state=terminated(3, message=said("no rows", 3)))
    assert len(list(seen.note([failed, pod("master-0")]))) == 1

    assert seen.exceeded(now=0.0) is None
    assert (seen.exceeded(now=PERMANENT_S + 1) is not None) == is_ended
    cause = status_of(kind, job, [failed, pod("master-0")]).cause
    assert cause.startswith("starts again after" if is_ended else "terminates after")
