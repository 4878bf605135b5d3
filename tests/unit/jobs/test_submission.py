"""Create one job for one name, and render what is sent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from rlvr_components.jobs.cluster import (
    open_backend,
    submission,
)
from rlvr_components.jobs.kinds import ClusterPlace
from rlvr_components.jobs.launching import launch
from rlvr_components.pipeline_run import LaunchSettings
from rlvr_components.platform.settings import Platform
from rlvr_components.preflight.form import Form
from rlvr_components.steps.remote_step import Site, job_spec
from rlvr_pipelines.cluster.job_plan import known_overrides, plan_job, platform_of
from rlvr_trainer.errors import ConfigError, JobFailed
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.variables import RUN_ID_VARIABLE

from .fake_api_server import FakeApiServer, Fault
from .objects import (
    SPEC,
    Object,
    condition,
    event,
    pod,
    said,
    terminated,
)
from .scenarios import (
    JOBS,
    backend,
    ending,
    fail,
    later,
    launcher_threads,
    pods_of,
    run_pods,
    stopping,
    succeed,
    trains,
)

pytestmark = pytest.mark.timeout(60)


def test_a_job_is_created_followed_and_succeeds(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        name = job["metadata"]["name"]
        api.log(f"{name}-master-0", "step 1", "step 2")
        api.log(f"{name}-worker-0", "[rank 1] ready")
        later(lambda: succeed(api, job))

    api.on_create = on_create

    launch(backend(), SPEC)

    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if "step" in line] == ["[master-0] step 1", "[master-0] step 2"]
    assert "[worker-0] [rank 1] ready" in lines
    assert [job["metadata"]["name"] for job in api.jobs()] == [SPEC.name]
    deadline = time.monotonic() + 5
    while launcher_threads():
        assert time.monotonic() < deadline, launcher_threads()
        time.sleep(0.01)


def test_a_failed_job_raises_its_first_cause_and_keeps_it(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        later(lambda: fail(api, job, "worker-0", terminated(3, message=said("no rows", 3))))

    api.on_create = on_create

    with pytest.raises(JobFailed, match=r"^worker-0: no rows$") as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 3
    assert "worker-0: no rows (exit code 3)" in capfd.readouterr().out
    [job] = api.jobs()
    assert job["metadata"]["annotations"]["rlvr.dev/cause"] == "worker-0: no rows"
    assert job["metadata"]["annotations"]["rlvr.dev/exit-code"] == "3"


def test_the_rendered_object_is_what_is_sent(api: FakeApiServer) -> None:
    trains(api)
    launcher = backend()
    rendered = launcher.render(SPEC)

    launch(launcher, SPEC)

    [sent] = api.jobs()
    assert sent["spec"] == rendered["spec"]
    assert sent["metadata"]["labels"] == rendered["metadata"]["labels"]
    assert sent["metadata"]["labels"]["rlvr.dev/job"] == SPEC.name_of_all_attempts


def test_a_create_whose_answer_is_lost_finds_its_job(api: FakeApiServer) -> None:
    trains(api)
    api.faults = [Fault("POST", JOBS, lose_answer=True)]

    launch(backend(), SPEC)

    assert api.num_requests(f"POST .*{JOBS}") == 1
    assert len(api.jobs()) == 1


def test_a_create_answered_with_a_server_error_is_retried(api: FakeApiServer) -> None:
    trains(api)
    api.faults = [Fault("POST", JOBS, status=503, times=2), Fault("POST", JOBS, status=429)]

    launch(backend(), SPEC)

    assert api.num_requests(f"POST .*{JOBS}") == 4
    assert len(api.jobs()) == 1


def test_a_name_that_is_taken_by_the_same_spec_is_adopted(api: FakeApiServer) -> None:
    launcher = backend()
    rendered = launcher.render(SPEC)
    api.put("pytorchjobs", rendered)

    assert launcher.submit(rendered) == SPEC.name
    assert len(api.jobs()) == 1


def test_a_name_that_is_taken_by_another_spec_is_an_error(api: FakeApiServer) -> None:
    api.put("pytorchjobs", backend().render(SPEC))
    other = backend(run_timeout_s=7)

    with pytest.raises(ConfigError, match=r"exists with another spec .* stop it first"):
        other.submit(other.render(SPEC))


def test_a_name_that_is_taken_by_a_foreign_job_is_an_error(api: FakeApiServer) -> None:
    rendered = backend().render(SPEC)
    api.put("pytorchjobs", {**rendered, "metadata": {"name": SPEC.name}})

    with pytest.raises(ConfigError, match=r"exists and was not created by rlvr"):
        backend().submit(rendered)


def test_a_terminating_job_of_the_same_name_is_waited_for(api: FakeApiServer) -> None:
    launcher = backend()
    rendered = launcher.render(SPEC)
    old = api.put(
        "pytorchjobs",
        {
            **rendered,
            "metadata": {**rendered["metadata"], "deletionTimestamp": "2026-11-25T03:00:00Z"},
        },
    )
    later(lambda: api.remove("pytorchjobs", SPEC.name))

    launcher.submit(rendered)

    [new] = api.jobs()
    assert new["metadata"]["uid"] != old["metadata"]["uid"]


def test_terminating_pods_of_an_earlier_job_are_waited_for(api: FakeApiServer) -> None:
    launcher = backend()
    rendered = launcher.render(SPEC)
    [old] = pods_of(api.put("pytorchjobs", rendered), "master-0")
    api.remove("pytorchjobs", SPEC.name)
    api.put("pods", ending(old))
    left_at_creation: list[Object] = []
    api.on_create = lambda job: left_at_creation.extend(api.jobs("pods"))
    later(lambda: api.remove("pods", old["metadata"]["name"]), 0.3)

    launcher.submit(rendered)

    assert len(api.jobs()) == 1
    assert left_at_creation == []


def test_a_pod_that_never_terminates_is_left_to_the_operator(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(submission, "GONE_TIMEOUT_S", 0.2)
    api.put("pods", ending(pod("master-0", job=SPEC.name)))
    launcher = backend()

    launcher.submit(launcher.render(SPEC))

    assert len(api.jobs()) == 1
    assert f"still terminating after 0 s: {SPEC.name}-master-0" in caplog.text


def test_a_signal_while_earlier_pods_terminate_leaves_no_job(api: FakeApiServer) -> None:
    api.put("pods", ending(pod("master-0", job=SPEC.name)))
    later(lambda: os.kill(os.getpid(), signal.SIGTERM), 0.3)

    error = stopping(api)

    assert error.exit_code == 143
    assert api.num_requests(f"POST .*{JOBS}") == 0


def test_a_job_whose_name_still_has_terminating_pods_stays_pending(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    taken = 'Error creating: object is being deleted: pods "x-master-0" already exists'

    def on_create(job: Object) -> None:
        name = job["metadata"]["name"]
        api.put("events", event("FailedCreatePod", taken, "PyTorchJob", name))
        later(lambda: run_pods(api, job), 1.5)
        later(lambda: succeed(api, job), 2.0)

    api.on_create = on_create

    launch(backend(start_grace_s=1), SPEC)

    assert "pending: waits until the pods of an earlier job" in capfd.readouterr().out


def test_a_trainjob_is_rendered_for_the_version_that_the_server_knows(api: FakeApiServer) -> None:
    properties = {"spec": {"properties": {"runtimePatches": {}}}}
    api.openapi = {"components": {"schemas": {"x.TrainJob": {"properties": properties}}}}
    api.kinds = ("trainjobs", "pods", "events")

    def on_create(job: Object) -> None:
        later(lambda: api.change("trainjobs", SPEC.name, conditions=[condition("Complete")]))

    api.on_create = on_create
    settings = Platform(image="rlvr-trainer:0.1.0", namespace="rlvr")

    launch(open_backend("trainjob", settings), SPEC)

    [job] = api.jobs("trainjobs")
    assert "runtimePatches" in job["spec"]


FIELDS = ["podSpecOverrides", "podTemplateOverrides", "runtimePatches"]


def knows_trainjobs(api: FakeApiServer, field: str) -> None:
    properties = {"spec": {"properties": {field: {}}}}
    api.openapi = {"components": {"schemas": {"x.TrainJob": {"properties": properties}}}}
    api.kinds = ("trainjobs", "pods", "events")


@pytest.mark.parametrize("field", FIELDS)
def test_rendering_asks_the_api_server_nothing(api: FakeApiServer, field: str) -> None:
    knows_trainjobs(api, field)
    launcher = open_backend("trainjob", Platform(image="rlvr-trainer:0.1.0", namespace="rlvr"))
    num_requests = len(api.requests)

    assert field in launcher.render(SPEC)["spec"]
    assert len(api.requests) == num_requests


@pytest.mark.parametrize(
    ("place", "field"), [("pytorchjob", ""), *(("trainjob", field) for field in FIELDS)]
)
def test_the_train_step_sends_what_plan_shows(
    api: FakeApiServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: ClusterPlace,
    field: str,
) -> None:
    if field:
        knows_trainjobs(api, field)
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv(RUN_ID_VARIABLE, "tiny-0a1b2c3d4e5f")
    recipe = load_recipe(Path(__file__).parents[2] / "tiny.yaml")
    form = Form("tiny", job_platform='{"image": "rlvr-trainer:0.1.0", "num_nodes": 2}')
    planned = plan_job(
        recipe,
        place,
        platform_of(form),
        storage=str(tmp_path),
        run_id="tiny-0a1b2c3d4e5f",
        overrides=known_overrides(place),
    )

    site = Site(planned.spec.run_dir, LaunchSettings(place, "tiny", planned.platform))
    launcher = open_backend(place, planned.platform)
    spec = launcher.next_attempt(job_spec("train", recipe, planned.spec.run_dir, site))
    launcher.submit(launcher.render(spec))

    [sent] = api.jobs(f"{place}s")
    assert sent["spec"] == planned.manifest["spec"]
    assert planned.manifest["metadata"].items() <= sent["metadata"].items()
