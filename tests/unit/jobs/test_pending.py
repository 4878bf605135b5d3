"""Derive a job's pending reason from the cluster's objects."""

from __future__ import annotations

import pytest

from rlvr_components.jobs.cluster.job_status import status_of
from rlvr_components.jobs.cluster.pending import pending_reason
from rlvr_components.jobs.cluster.snapshot import is_about
from rlvr_components.jobs.kinds import PYTORCHJOB

from .objects import Object, condition, event, pod, pytorchjob, waiting

UNSCHEDULABLE = (
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."
)


def unscheduled(replica: str = "worker-0") -> Object:
    says = condition("PodScheduled", UNSCHEDULABLE, "False", reason="Unschedulable")
    return pod(replica, "Pending", conditions=[says])


@pytest.mark.parametrize(
    ("waits", "events", "limit", "exit_code", "cause"),
    [
        pytest.param(
            pod(phase="Pending", state=waiting("ErrImagePull", "not found")),
            [],
            *("grace", 2, "worker-0: ErrImagePull: not found; correct image"),
            id="image",
        ),
        pytest.param(
            pod(phase="Pending", state=waiting("ImagePullBackOff", "Back-off pulling image")),
            [
                event("Failed", "Error: ImagePullBackOff", at="03:03:00"),
                event("Failed", 'Failed to pull image "x:1": 401 Unauthorized', at="03:02:00"),
                event("Failed", 'Failed to pull image "x:1": older', at="03:01:00"),
            ],
            *("grace", 2, 'ImagePullBackOff: Failed to pull image "x:1": 401 Unauthorized'),
            id="a back-off is explained by the newest event that says why",
        ),
        pytest.param(
            pod(phase="Pending", state=waiting("InvalidImageName", "couldn't parse 'A:B:C'")),
            [],
            *("grace", 2, "InvalidImageName: couldn't parse 'A:B:C'"),
            id="image name",
        ),
        pytest.param(
            pod(
                phase="Pending",
                state=waiting("CreateContainerConfigError", 'secret "hf" not found'),
            ),
            [],
            *("grace", 2, 'CreateContainerConfigError: secret "hf" not found'),
            id="missing secret",
        ),
        pytest.param(
            unscheduled(),
            [],
            *("queue", 138, f"worker-0: Unschedulable: {UNSCHEDULABLE}"),
            id="room",
        ),
        pytest.param(
            pod(phase="Pending", state=waiting("ContainerCreating")),
            [event("FailedMount", 'MountVolume.SetUp failed for volume "data": not found')],
            *("queue", 138, "FailedMount: MountVolume.SetUp failed"),
            id="volume",
        ),
        pytest.param(
            pod(phase="Pending", state=waiting("PodInitializing"), init={"running": {}}),
            [],
            *("start", 138, "its init container init-pytorch waits for another replica"),
            id="the master",
        ),
        pytest.param(
            pod(phase="Pending", init=waiting("ImagePullBackOff", "no such image")),
            [],
            *("grace", 2, "ImagePullBackOff: no such image"),
            id="the init container's image",
        ),
        pytest.param(
            pod(phase="Pending", state=waiting("ContainerCreating")),
            [],
            *("start", 138, "its container is being created"),
            id="nothing special",
        ),
    ],
)
def test_a_pending_pod_has_a_reason(
    waits: Object, events: list[Object], limit: str, exit_code: int, cause: str
) -> None:
    reason = pending_reason(PYTORCHJOB, pytorchjob(), [pod("master-0"), waits], events)

    assert reason is not None
    assert cause in reason.cause
    assert (reason.limit, reason.exit_code) == (limit, exit_code)


def test_the_most_serious_reason_is_reported() -> None:
    starting = pod("master-0", "Pending", waiting("ContainerCreating"))
    broken = pod("worker-0", "Pending", waiting("InvalidImageName", "A:B"))

    reason = pending_reason(PYTORCHJOB, pytorchjob(), [starting, unscheduled("worker-1"), broken])

    assert reason is not None
    assert reason.cause.startswith("worker-0: InvalidImageName")


@pytest.mark.parametrize(
    ("message", "limit", "exit_code", "cause"),
    [
        (
            'Error creating: pods "tiny-master-0" is forbidden: exceeded quota: rlvr, requested: '
            "pods=1, used: pods=200, limited: pods=200",
            *("queue", 138, "quota: Error creating"),
        ),
        (
            'Error creating: pods "tiny-master-0" is forbidden: violates PodSecurity '
            '"restricted:latest": runAsNonRoot != true',
            *("grace", 2, "the cluster refuses the job's pods: Error creating"),
        ),
        (
            'Error creating: pods "tiny-master-0" already exists',
            *(
                "start",
                138,
                "waits until the pods of an earlier job of its name have terminated: Error",
            ),
        ),
        (
            'Error creating: object is being deleted: pods "tiny-master-0" already exists',
            *(
                "start",
                138,
                "waits until the pods of an earlier job of its name have terminated: Error",
            ),
        ),
    ],
)
def test_refused_pods_are_reported_from_the_jobs_events(
    message: str, limit: str, exit_code: int, cause: str
) -> None:
    refused = event("FailedCreatePod", message, "PyTorchJob", "tiny")

    reason = pending_reason(PYTORCHJOB, pytorchjob(), [], [refused])

    assert reason is not None
    assert cause in reason.cause
    assert (reason.limit, reason.exit_code) == (limit, exit_code)


@pytest.mark.parametrize(
    ("last", "first", "uid", "expected"),
    [
        pytest.param("03:01:00", "03:01:00", "", True, id="since the job was created"),
        pytest.param("02:59:59", "02:50:00", "", False, id="before it was"),
        pytest.param("03:00:00.25", "03:00:00", "", True, id="in the same second"),
        pytest.param("02:59:30", "03:00:10", "", True, id="by a clock that is behind"),
        pytest.param("03:01:00", "02:50:00", "uid-of-tiny", True, id="of this job"),
        pytest.param("03:01:00", "03:01:00", "uid-of-another", False, id="of another of its name"),
    ],
)
def test_only_events_of_this_job_are_reported(
    last: str, first: str, uid: str, expected: bool
) -> None:
    refusal = event("FailedCreatePod", "no", "PyTorchJob", "tiny", at=last)
    refusal["metadata"]["creationTimestamp"] = f"2026-11-25T{first}Z"
    refusal["involvedObject"]["uid"] = uid

    assert is_about(pytorchjob(), refusal) is expected


def test_an_earlier_refusal_of_existing_pods_is_ignored() -> None:
    refused = event("FailedCreatePod", "exceeded quota", "PyTorchJob", "tiny")

    assert pending_reason(PYTORCHJOB, pytorchjob(), [pod("master-0"), pod()], [refused]) is None


def suspended() -> Object:
    job = pytorchjob("tiny", labels={"kueue.x-k8s.io/queue-name": "gpus"})
    job["spec"]["runPolicy"]["suspend"] = True
    return job


def test_a_job_that_kueue_holds_back_says_why() -> None:
    says = condition("QuotaReserved", "couldn't assign flavors: insufficient quota", "False")
    workload = {"metadata": {"name": "pytorchjob-tiny-1a2b3"}, "status": {"conditions": [says]}}

    reason = pending_reason(PYTORCHJOB, suspended(), [], [], [workload])

    assert reason is not None
    assert (
        reason.cause == "Kueue: pending in queue gpus: couldn't assign flavors: insufficient quota"
    )
    assert reason.limit == "queue"


def test_kueues_events_are_reported_without_its_workload() -> None:
    pending = event("Pending", "no room in the cohort", "Workload", "pytorchjob-tiny-1a2b3")

    reason = pending_reason(PYTORCHJOB, suspended(), [], [pending])

    assert reason is not None
    assert reason.cause == "Kueue: pending in queue gpus: no room in the cohort"


def test_a_job_whose_replicas_all_run_has_no_pending_reason() -> None:
    pods = [pod("master-0"), pod()]

    assert pending_reason(PYTORCHJOB, pytorchjob(), pods) is None
    assert status_of(PYTORCHJOB, pytorchjob(), pods).phase == "running"


def test_a_jobs_status_has_the_state_of_each_replica() -> None:
    status = status_of(PYTORCHJOB, pytorchjob(), [unscheduled("worker-0"), pod("master-0")])

    assert status.phase == "pending"
    assert [(replica.name, replica.phase) for replica in status.replicas] == [
        ("master-0", "Running"),
        ("worker-0", "Pending"),
    ]
