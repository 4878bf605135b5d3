"""Scenarios of jobs in the fake API server, and the backend that launches them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs import JobSpec
from rlvr_components.jobs.cluster import (
    ClusterBackend,
    open_backend,
)
from rlvr_components.jobs.launching import launch
from rlvr_trainer.errors import JobFailed

from .fake_api_server import FakeApiServer
from .objects import (
    FAILED,
    PLATFORM,
    SPEC,
    Object,
    condition,
    pod,
    said,
    terminated,
    waiting,
)

JOBS = "/pytorchjobs"


def backend(**settings: Any) -> ClusterBackend:
    return open_backend("pytorchjob", PLATFORM.model_copy(update=settings))


def pods_of(job: Object, *replicas: str, **options: Any) -> list[Object]:
    """Return pods as the operator makes them for a new job."""
    name = job["metadata"]["name"]
    made = [pod(replica, job=name, **options) for replica in replicas or ("master-0", "worker-0")]
    for obj in made:
        obj["metadata"]["creationTimestamp"] = job["metadata"]["creationTimestamp"]
        obj["metadata"]["uid"] += str(time.monotonic_ns())
    return made


def run_pods(api: FakeApiServer, job: Object, *replicas: str, **options: Any) -> None:
    for obj in pods_of(job, *replicas, **options):
        api.put("pods", obj)


def end_pod(api: FakeApiServer, name: str, state: Object, phase: str = "Failed") -> None:
    statuses = [{"name": "pytorch", "restartCount": 0, "state": state}]
    api.change("pods", name, phase=phase, containerStatuses=statuses)
    api.end_log(name)


def succeed(api: FakeApiServer, job: Object) -> None:
    name = job["metadata"]["name"]
    for pod_name in [name for kind, name in api.objects if kind == "pods"]:
        end_pod(api, pod_name, terminated(0, reason="Completed"), "Succeeded")
    api.change("pytorchjobs", name, conditions=[condition("Succeeded")])


def fail(api: FakeApiServer, job: Object, replica: str, state: Object) -> None:
    end_pod(api, f"{job['metadata']['name']}-{replica}", state)
    api.change("pytorchjobs", job["metadata"]["name"], conditions=[FAILED])


def later(act: Callable[[], object], after_s: float = 0.1) -> None:
    threading.Timer(after_s, act).start()


def trains(api: FakeApiServer, after_s: float = 0.1) -> None:
    """Let every created job train and succeed."""

    def on_create(job: Object) -> None:
        run_pods(api, job)
        later(lambda: succeed(api, job), after_s)

    api.on_create = on_create


def launcher_threads() -> list[str]:
    named = [thread.name for thread in threading.enumerate()]
    return [name for name in named if name.startswith(("watch ", "logs ", "progress"))]


def ending(pod: Object) -> Object:
    return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "2026-11-25T03:00:00Z"}}


def live_job(api: FakeApiServer, attempt: int = 1, spec: Any = SPEC, **status: Any) -> Object:
    rendered = backend().render(replace(spec, attempt=attempt))
    return api.put("pytorchjobs", {**rendered, "status": status})


def failed_job(api: FakeApiServer, exit_code: int, attempt: int = 1, spec: Any = SPEC) -> Object:
    job = live_job(api, attempt, spec, conditions=[FAILED])
    state = terminated(exit_code, message=said(f"ended with {exit_code}", exit_code))
    run_pods(api, job, "master-0", phase="Failed", state=state)
    return job


def runs(api: FakeApiServer, job: Object) -> None:
    run_pods(api, job)


def cannot_pull(api: FakeApiServer, job: Object) -> None:
    run_pods(api, job, phase="Pending", state=waiting("ImagePullBackOff", "no such image"))


def has_no_room(api: FakeApiServer, job: Object) -> None:
    says = condition("PodScheduled", "0/1 nodes are available", "False", reason="Unschedulable")
    run_pods(api, job, phase="Pending", conditions=[says])


def runs_out_of_memory_twice(api: FakeApiServer, job: Object) -> None:
    state = terminated(137, reason="OOMKilled")
    run_pods(api, job, "worker-0", phase="Failed", state=state)
    later(lambda: run_pods(api, job, "worker-0", phase="Failed", state=state), 0.3)


def is_deleted_by_somebody(api: FakeApiServer, job: Object) -> None:
    run_pods(api, job)
    later(lambda: api.remove("pytorchjobs", job["metadata"]["name"]))


def retried(run_dir: Path) -> JobSpec:
    """Return the job of a step that Kubeflow retries."""
    return replace(SPEC, run_id="run-1", is_automatic=True, run_dir=str(run_dir))


def stopping(api: FakeApiServer) -> JobFailed:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(JobFailed) as caught:
        launch(backend(), SPEC)
    assert {number: signal.getsignal(number) for number in before} == before
    return caught.value
