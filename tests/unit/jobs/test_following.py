"""Notice deletions, limits and lost pods while a job is followed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs.cluster import (
    limits,
    open_backend,
)
from rlvr_components.jobs.launching import launch
from rlvr_trainer.errors import JobFailed

from .fake_api_server import FakeApiServer
from .objects import (
    PLATFORM,
    SPEC,
    Object,
    condition,
    event,
    terminated,
    waiting,
)
from .scenarios import backend, end_pod, later, run_pods, succeed, trains

pytestmark = pytest.mark.timeout(60)


def test_a_job_deleted_while_it_is_followed_fails_at_once(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        later(lambda: api.remove("pytorchjobs", job["metadata"]["name"]))

    api.on_create = on_create

    with pytest.raises(JobFailed, match="deleted by someone else") as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 7
    assert not api.jobs()


def test_another_job_of_the_same_name_is_left_alone(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def replace_it() -> None:
            api.remove("pytorchjobs", job["metadata"]["name"])
            fresh = {**job, "metadata": {**job["metadata"], "uid": "another"}}
            api.put("pytorchjobs", fresh)

        later(replace_it)

    api.on_create = on_create

    with pytest.raises(JobFailed, match="deleted by someone else"):
        launch(backend(), SPEC)

    assert [job["metadata"]["uid"] for job in api.jobs()] == ["another"]


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (waiting("ImagePullBackOff", "no such image"), "ImagePullBackOff: no such image"),
        (waiting("InvalidImageName", "A:B:C"), "InvalidImageName: A:B:C"),
        (waiting("CreateContainerConfigError", 'secret "s" not found'), 'secret "s" not found'),
    ],
)
def test_a_pending_reason_that_hardly_passes_fails_after_the_grace_and_deletes_the_job(
    api: FakeApiServer, state: Object, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    api.on_create = lambda job: run_pods(api, job, phase="Pending", state=state)
    started = time.monotonic()

    with pytest.raises(JobFailed, match=cause) as caught:
        launch(backend(start_grace_s=1), SPEC)

    assert caught.value.exit_code == 2
    assert 1 <= time.monotonic() - started < 5
    assert not api.jobs()
    lines = [line for line in capfd.readouterr().out.splitlines() if cause in line]
    assert "pending: master-0" in lines[0], "reported before it fails"
    assert lines[-1].endswith("the job is deleted")


def test_a_pending_reason_that_passes_within_the_grace_is_not_a_failure(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job, phase="Pending", state=waiting("ErrImagePull", "registry is away"))
        later(lambda: run_pods(api, job), 0.5)
        later(lambda: succeed(api, job), 1.0)

    api.on_create = on_create

    launch(backend(start_grace_s=2), SPEC)


def test_a_second_out_of_memory_fails_a_job_that_its_operator_restarts_forever(
    api: FakeApiServer,
) -> None:
    def on_create(job: Object) -> None:
        def course() -> None:
            for _ in range(3):
                run_pods(api, job)
                time.sleep(0.3)
                end_pod(
                    api,
                    f"{job['metadata']['name']}-worker-0",
                    terminated(137, reason="OOMKilled"),
                )
                time.sleep(0.3)
                api.remove("pods", f"{job['metadata']['name']}-worker-0")

        threading.Thread(target=course).start()

    api.on_create = on_create

    with pytest.raises(
        JobFailed, match=r"for the second time worker-0: out of memory.*40Gi"
    ) as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 9
    assert not api.jobs()


def test_a_container_that_cannot_start_fails_a_job_that_its_operator_restarts_forever(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PERMANENT_S", 0.3)
    never = terminated(128, reason="StartError", message="no such program")
    api.on_create = lambda job: run_pods(api, job, phase="Failed", state=never)

    with pytest.raises(JobFailed, match="the container cannot start: no such program") as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 2
    assert not api.jobs()


def test_the_queue_has_a_limit_of_its_own(api: FakeApiServer) -> None:
    says = condition("PodScheduled", "0/1 nodes are available", "False", reason="Unschedulable")
    api.on_create = lambda job: run_pods(api, job, phase="Pending", conditions=[says])

    with pytest.raises(
        JobFailed, match=r"queue_timeout_s \(2 s\): master-0: Unschedulable: 0/1 nodes"
    ) as caught:
        launch(backend(queue_timeout_s=2), SPEC)

    assert caught.value.exit_code == 138
    assert not api.jobs()


def test_running_has_a_limit_of_its_own(api: FakeApiServer) -> None:
    api.on_create = lambda job: run_pods(api, job)

    with pytest.raises(JobFailed, match=r"run_timeout_s \(1 s\)") as caught:
        launch(backend(run_timeout_s=1), SPEC)

    assert caught.value.exit_code == 7
    assert not api.jobs()


def test_an_exceeded_quota_is_reported_from_the_jobs_events(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def on_create(job: Object) -> None:
        name = job["metadata"]["name"]
        api.put("events", event("FailedCreatePod", "exceeded quota: gpus", "PyTorchJob", name))
        later(lambda: run_pods(api, job), 0.5)
        later(lambda: succeed(api, job), 1.0)

    api.on_create = on_create

    launch(backend(), SPEC)

    assert "pending: quota: exceeded quota: gpus" in capfd.readouterr().out


def test_events_of_an_earlier_job_of_the_same_name_are_ignored(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    said_before = event("FailedCreatePod", "no such service account", "PyTorchJob", SPEC.name)
    said_before["lastTimestamp"] = "2020-01-01T03:01:00Z"
    said_before["metadata"]["creationTimestamp"] = "2020-01-01T03:00:00Z"
    api.put("events", said_before)
    said_of_another = event("FailedCreatePod", "of another", "PyTorchJob", SPEC.name)
    said_of_another["lastTimestamp"] = "2999-01-01T00:00:00Z"
    said_of_another["involvedObject"]["uid"] = "the uid of an earlier job"
    api.put("events", said_of_another)

    def on_create(job: Object) -> None:
        later(lambda: run_pods(api, job), 1.5)
        later(lambda: succeed(api, job), 2.0)

    api.on_create = on_create

    launch(backend(start_grace_s=1), SPEC)

    output = capfd.readouterr().out
    assert "pending: waits for the operator to create 2 pods" in output
    assert "refuses" not in output


def test_a_lost_node_is_reported_and_its_pod_replaced_by_the_operator(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.3)
            name = f"{job['metadata']['name']}-worker-0"
            lost = api.objects["pods", name]
            api.put("pods", {**lost, "status": {"phase": "Failed", "reason": "NodeLost"}})
            time.sleep(0.3)
            api.remove("pods", name)
            run_pods(api, job, "worker-0")
            time.sleep(0.3)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)

    assert "worker-0: its node node-a was lost (exit code 138)" in capfd.readouterr().out


def test_progress_goes_from_the_run_directory_to_annotations_and_the_launcher(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        '{"time": 1, "event": "phase", "phase": "train", "state": "started"}\n'
        '{"time": 2, "event": "step", "step": 3, "max_steps": 20, "reward": 0.6125}\n'
        '{"time": 3, "event": "step", "st'
    )
    seen: list[Any] = []
    trains(api)

    launch(
        open_backend("pytorchjob", PLATFORM, on_event=seen.append),
        replace(SPEC, run_dir=str(run)),
    )

    [job] = api.jobs()
    annotations = job["metadata"]["annotations"]
    assert annotations["rlvr.dev/step"] == "3/20"
    assert annotations["rlvr.dev/reward"] == "0.613" or annotations["rlvr.dev/reward"] == "0.612"
    assert annotations["rlvr.dev/phase"] == "train"
    assert [event["event"] for event in seen] == ["phase", "step"]
