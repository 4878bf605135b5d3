from __future__ import annotations

from dataclasses import replace

import pytest
from kfp_server_api import V2beta1Experiment

from rlvr_components.workflow import STEPS
from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.kubeflow import kubeflow_runs
from rlvr_pipelines.kubeflow.connection import Kubeflow, connect
from rlvr_pipelines.kubeflow.kubeflow_runs import (
    KubeflowRun,
    check_outcome,
    follow_run,
    get_run,
    start_run,
    terminate_run,
)
from rlvr_pipelines.kubeflow.versions import upload_package
from rlvr_pipelines.pipeline.package import Package
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

from .conftest import Serve
from .fake_api import FakeKubeflow
from .workflows import pod_of

PACKAGE = Package("rlvr-tiny", "0.1.0-abc", "A tiny one.", "root: {a: 1}\n")


def start(kubeflow: Kubeflow, experiment: str = "rlvr") -> KubeflowRun:
    return start_run(
        kubeflow,
        PACKAGE,
        experiment=experiment,
        name="tiny-1",
        parameters={"storage_uri": "s3://bucket/runs", "job_num_nodes": 2},
    )


@pytest.fixture
def fake(serve: Serve) -> FakeKubeflow:
    return serve()


@pytest.fixture
def kubeflow(fake: FakeKubeflow) -> Kubeflow:
    return connect(AccessOptions(endpoint=fake.url))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow_runs, "POLL_S", 0.001)


def test_a_run_has_its_pipeline_parameters_and_experiment(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    run = start(kubeflow)

    sent = fake.runs[run.id]
    assert sent.display_name == "tiny-1"
    assert sent.pipeline_spec == {"root": {"a": 1}}
    assert sent.runtime_config.parameters == {
        "storage_uri": "s3://bucket/runs",
        "job_num_nodes": 2,
    }
    assert fake.experiments[sent.experiment_id].display_name == "rlvr"
    assert (run.state, run.link) == ("PENDING", f"{fake.url}/#/runs/details/{run.id}")


def test_a_run_belongs_to_the_uploaded_version_with_the_same_bytes(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    uploaded = upload_package(kubeflow, PACKAGE)

    same, changed = (
        start(kubeflow),
        start_run(
            kubeflow,
            replace(PACKAGE, text="root: {a: 2}\n"),
            experiment="rlvr",
            name="tiny-2",
            parameters={},
        ),
    )

    reference = fake.runs[same.id].pipeline_version_reference
    assert reference.pipeline_id == uploaded.pipeline_id
    assert reference.pipeline_version_id == uploaded.version_id
    assert fake.runs[same.id].pipeline_spec is None
    assert fake.runs[changed.id].pipeline_version_reference is None
    assert fake.runs[changed.id].pipeline_spec == {"root": {"a": 2}}


def test_an_experiment_is_made_once(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    start(kubeflow)
    start(kubeflow)

    assert len(fake.experiments) == 1
    assert len(fake.runs) == 2


def test_nothing_starts_in_an_archived_experiment(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    fake.experiments["old"] = V2beta1Experiment(
        experiment_id="old", display_name="old", storage_state="ARCHIVED"
    )

    with pytest.raises(ConfigError, match=r"'old' is archived.*another --experiment"):
        start(kubeflow, "old")
    assert fake.runs == {}


def test_in_a_profile_the_experiment_is_the_profiles(serve: Serve) -> None:
    fake = serve(multi_user=True, namespaces=("me",))

    run = start(connect(AccessOptions(endpoint=fake.url, namespace="me")))

    assert fake.experiments[fake.runs[run.id].experiment_id].namespace == "me"


def states(run: KubeflowRun) -> dict[str, str]:
    return {task.name: task.state for task in run.tasks}


@pytest.mark.parametrize("is_stock", [True, False])
@pytest.mark.parametrize("has_first_version", [True, False])
def test_only_steps_are_shown_of_what_argo_runs_in_the_pipelines_order(
    is_stock: bool, has_first_version: bool, serve: Serve
) -> None:
    fake = serve(is_stock=is_stock, has_first_version=has_first_version)
    kubeflow = connect(AccessOptions(endpoint=fake.url))
    run = start(kubeflow)
    fake.course = [("RUNNING", {"train": "RUNNING", "prepare-data": "SUCCEEDED"})]

    seen = get_run(kubeflow, run.id)

    assert [task.name for task in seen.tasks] == list(STEPS)
    running = {name: state for name, state in states(seen).items() if state != "PENDING"}
    assert running == {"prepare-data": "SUCCEEDED", "train": "RUNNING"}


def test_a_step_that_never_ran_is_not_run(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.course = [("FAILED", {"check": "FAILED", "train": "OMITTED"})]

    seen = get_run(kubeflow, run.id)

    lines = [line for task in seen.tasks for line in task.lines()]
    assert "train                   not run" in lines
    assert "publish                 not run" in lines


def test_following_shows_each_change_until_the_end(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.course = [
        ("PENDING", {}),
        ("RUNNING", {"prepare-data": "RUNNING"}),
        ("RUNNING", {"prepare-data": "RUNNING"}),
        ("RUNNING", {"prepare-data": "SUCCEEDED", "train": "RUNNING"}),
        ("SUCCEEDED", {"prepare-data": "SUCCEEDED", "train": "SUCCEEDED"}),
    ]
    shown: list[tuple[str, str]] = []

    ended = follow_run(kubeflow, run.id, lambda task: shown.append((task.name, task.state)))

    assert ended.state == "SUCCEEDED"
    assert [change for change in shown if change[1] != "NOT_RUN"] == [
        ("prepare-data", "RUNNING"),
        ("prepare-data", "SUCCEEDED"),
        ("train", "RUNNING"),
        ("train", "SUCCEEDED"),
    ]
    check_outcome(ended)


def test_a_temporary_outage_of_the_server_is_waited_for(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    run = start(kubeflow)
    fake.failures, fake.course = [503, 500], [("SUCCEEDED", {})]

    assert follow_run(kubeflow, run.id, lambda task: None).state == "SUCCEEDED"


def test_a_lasting_outage_of_the_server_does_not_end_the_run(
    fake: FakeKubeflow, kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(kubeflow)
    monkeypatch.setattr(kubeflow_runs, "MAX_SILENCE_S", 0.0)
    fake.failures = [503] * 3

    with pytest.raises(PlatformError, match=f"the run continues: `rlvr status {run.id} --endpoint"):
        follow_run(kubeflow, run.id, lambda task: None)


def test_an_expired_login_is_not_a_state(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.login_page = True

    with pytest.raises(ConfigError, match="web page"):
        follow_run(kubeflow, run.id, lambda task: None)


CAUSE = "started step train\nerror: recipe: no such task; choose one (exit code 2)\n"


def test_a_failed_run_ends_with_the_steps_cause_and_exit_code(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    run = start(kubeflow)
    fake.course = [("FAILED", {"prepare-data": "SUCCEEDED", "train": "FAILED"})]
    fake.logs[pod_of("train")] = CAUSE
    ended = get_run(kubeflow, run.id)

    with pytest.raises(JobFailed) as caught:
        check_outcome(ended)
    assert caught.value.exit_code == ConfigError.exit_code
    assert str(caught.value) == (
        "run tiny-1 failed at train: recipe: no such task; choose one (exit code 2); correct the "
        "cause and start a new run; if it lies outside of the run, KFP's Retry of this run "
        f"continues it; its log: rlvr logs {run.id} --endpoint {fake.url}"
    )


def test_each_attempt_has_its_cause(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.course = [("RUNNING", {"train": ["LOST", "FAILED", "RUNNING"]})]
    fake.logs[pod_of("train", 1)] = CAUSE

    train = get_run(kubeflow, run.id).tasks[STEPS.index("train")]

    assert train.lines() == [
        "train                   running  attempt 3",
        "  attempt 1 failed: its pod was lost: pod deleted (exit code 138)",
        "  attempt 2 failed: recipe: no such task; choose one (exit code 2)",
    ]


def test_following_shows_a_retry_with_its_cause(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.course = [
        ("RUNNING", {"train": "RUNNING"}),
        ("RUNNING", {"train": ["LOST", "RUNNING"]}),
        ("SUCCEEDED", {"train": ["LOST", "SUCCEEDED"]}),
    ]
    shown: list[str] = []

    check_outcome(follow_run(kubeflow, run.id, lambda task: shown.extend(task.lines())))

    assert "  attempt 1 failed: its pod was lost: pod deleted (exit code 138)" in shown


def test_a_run_without_logs_fails_with_argos_message(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    run = start(kubeflow)
    fake.course = [("FAILED", {"check": "FAILED"})]

    with pytest.raises(JobFailed, match=r"at check: main: Error.*left no log") as caught:
        check_outcome(get_run(kubeflow, run.id))
    assert caught.value.exit_code == JobFailed.exit_code


def test_a_terminated_run_is_not_a_failed_one(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.course = [("RUNNING", {"train": "RUNNING"})]
    get_run(kubeflow, run.id)
    terminate_run(kubeflow, run.id)
    assert get_run(kubeflow, run.id).state == "CANCELING"
    fake.course = [("FAILED", {"train": "TERMINATED"})]

    ended = follow_run(kubeflow, run.id, lambda task: None)

    assert ended.phase == "terminated"
    assert states(ended)["train"] == "TERMINATED"
    with pytest.raises(JobFailed) as caught:
        check_outcome(ended)
    assert caught.value.exit_code == EXIT_PREEMPTED
    said = str(caught.value)
    assert "was terminated at 2026-11-02 10:00:01 UTC (exit code 143)" in said
    assert "KFP's Retry of this run continues it from the last checkpoint" in said
    assert "a new run has a new id and trains from the beginning" in said


def test_a_run_that_was_terminated_and_retried_is_what_the_retry_made_of_it(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    run = start(kubeflow)
    terminate_run(kubeflow, run.id)
    for state in ("FAILED", "RUNNING", "FAILED"):
        fake.course = [(state, {"train": state})]
        ended = get_run(kubeflow, run.id)

    assert ended.phase == "failed"


def test_the_namespace_of_a_run_is_its_workflows_unless_its_jobs_have_another(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    run = start(kubeflow)
    fake.course = [("RUNNING", {"train": "RUNNING"})]
    assert get_run(kubeflow, run.id).job_namespace == "kubeflow"

    fake.runs[run.id].runtime_config.parameters["job_namespace"] = "team"
    assert get_run(kubeflow, run.id).job_namespace == "team"


def test_a_run_that_is_not_there_is_refused(kubeflow: Kubeflow) -> None:
    with pytest.raises(ConfigError, match="Run 7 not found"):
        get_run(kubeflow, "7")
