"""A signal that takes only the launcher's pod leaves its job to the next attempt of the step."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from tests.unit.kubeflow.workflows import NAME, workflow

from rlvr_components.jobs import JobSpec
from rlvr_components.jobs.launching import launch
from rlvr_components.own_workflow import run_ending
from rlvr_trainer.errors import JobFailed

from .fake_api_server import FakeApiServer, Fault
from .objects import SPEC, Object
from .scenarios import JOBS, backend, later, live_job, run_pods

pytestmark = pytest.mark.timeout(60)


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def in_a_step(api: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> FakeApiServer:
    """Make this process a step of a running Workflow."""
    monkeypatch.setenv("KFP_POD_NAME", "train-1")
    monkeypatch.setenv("RLVR_NAMESPACE", "rlvr")
    api.kinds = (*api.kinds, "workflows")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": NAME, "uid": "1"}
    api.put("pods", {"metadata": {"name": "train-1", "ownerReferences": [owner]}})
    api.put("workflows", workflow({"train": "RUNNING"}, namespace="rlvr"))
    return api


def lost(spec: JobSpec = SPEC) -> JobFailed:
    """Launch the job until a signal; return the error."""
    with pytest.raises(JobFailed) as caught:
        launch(backend(), spec, is_run_ending=run_ending())
    return caught.value


def test_an_evicted_launcher_leaves_its_job_and_the_next_one_adopts_it(
    in_a_step: FakeApiServer,
) -> None:
    def on_create(job: Object) -> None:
        run_pods(in_a_step, job)
        later(sigterm)

    in_a_step.on_create = on_create

    error = lost()

    assert error.exit_code == 143
    assert "the next attempt of this step adopts it" in str(error)
    assert in_a_step.num_requests("DELETE") == 0
    [job] = in_a_step.jobs()
    chosen = backend()
    assert chosen.submit(chosen.render(chosen.next_attempt(SPEC))) == job["metadata"]["name"]
    assert len(in_a_step.jobs()) == 1


def test_a_launcher_of_a_terminated_run_deletes_its_job(in_a_step: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(in_a_step, job)
        in_a_step.put("workflows", workflow({}, is_terminated=True, namespace="rlvr"))
        later(sigterm)

    in_a_step.on_create = on_create

    error = lost()

    assert error.exit_code == 143
    assert not in_a_step.jobs()


def test_a_launcher_lost_while_it_creates_its_job_does_not_delete_it(
    in_a_step: FakeApiServer,
) -> None:
    in_a_step.faults = [Fault("POST", JOBS, delay_s=0.4)]

    def tell() -> None:
        while not in_a_step.num_requests(f"POST .*{JOBS}"):
            time.sleep(0.005)
        sigterm()

    threading.Thread(target=tell).start()

    assert lost().exit_code == 143
    assert in_a_step.num_requests("DELETE") == 0


def test_a_launcher_lost_before_it_launches_leaves_the_job_of_an_earlier_one(
    in_a_step: FakeApiServer,
) -> None:
    live_job(in_a_step)

    def prepare(spec: JobSpec) -> JobSpec:
        sigterm()
        time.sleep(30)
        return spec

    with pytest.raises(JobFailed, match="the next attempt"):
        launch(backend(), SPEC, prepare, is_run_ending=run_ending())
    assert len(in_a_step.jobs()) == 1


def test_whether_the_run_ends_is_read_from_its_workflow(in_a_step: FakeApiServer) -> None:
    is_ending = run_ending()
    assert not is_ending()

    in_a_step.put("workflows", workflow({}, is_terminated=True, namespace="rlvr"))
    assert is_ending()

    in_a_step.remove("workflows", NAME)
    assert is_ending(), "the job goes with the Workflow"


def test_a_workflow_that_cannot_be_read_leaves_the_job_to_the_last_step(
    in_a_step: FakeApiServer,
) -> None:
    in_a_step.forbidden = {("get", "workflows")}

    assert not run_ending()()


def test_a_pod_of_no_workflow_has_no_next_attempt(in_a_step: FakeApiServer) -> None:
    in_a_step.put("pods", {"metadata": {"name": "train-1", "uid": "1"}})

    assert run_ending()()
