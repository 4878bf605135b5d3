from __future__ import annotations

import pytest
from kfp_server_api import (
    GoogleRpcStatus,
    V2beta1Experiment,
    V2beta1PipelineTaskDetail,
    V2beta1RuntimeStatus,
)

from rlvr_pipelines.access_options import Access
from rlvr_pipelines.kubeflow import kubeflow_runs
from rlvr_pipelines.kubeflow.connection import Kubeflow, connect
from rlvr_pipelines.kubeflow.kubeflow_runs import (
    Run,
    Task,
    check_outcome,
    follow_run,
    get_run,
    start_run,
    terminate_run,
)
from rlvr_pipelines.pipeline.package import Package
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

from .conftest import Serve
from .fake_api import FakeKubeflow

PACKAGE = Package("rlvr-tiny", "0.1.0-abc", "A tiny one.", "root: {a: 1}\n")


def start(kubeflow: Kubeflow, experiment: str = "rlvr") -> Run:
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
    return connect(Access(endpoint=fake.url))


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

    run = start(connect(Access(endpoint=fake.url, namespace="me")))

    assert fake.experiments[fake.runs[run.id].experiment_id].namespace == "me"


def test_only_steps_are_shown_of_what_argo_runs(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.course = [("RUNNING", {"prepare-data": "SUCCEEDED", "exit-handler-1": "RUNNING",
                                "condition-2": "RUNNING", "train": "RUNNING"})]  # fmt: skip

    assert get_run(kubeflow, run.id).tasks == (
        Task("prepare-data", "SUCCEEDED"),
        Task("train", "RUNNING"),
    )


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
    assert shown == [
        ("prepare-data", "RUNNING"),
        ("prepare-data", "SUCCEEDED"),
        ("train", "RUNNING"),
        ("train", "SUCCEEDED"),
    ]
    check_outcome(ended)


def test_a_server_that_is_away_for_a_while_is_waited_for(
    fake: FakeKubeflow, kubeflow: Kubeflow
) -> None:
    run = start(kubeflow)
    fake.failures, fake.course = [503, 500], [("SUCCEEDED", {})]

    assert follow_run(kubeflow, run.id, lambda task: None).state == "SUCCEEDED"


def test_a_server_that_stays_away_does_not_end_the_run(
    fake: FakeKubeflow, kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(kubeflow)
    monkeypatch.setattr(kubeflow_runs, "MAX_SILENCE_S", 0.0)
    fake.failures = [503] * 3

    with pytest.raises(PlatformError, match=f"the run goes on: `rlvr status {run.id}`"):
        follow_run(kubeflow, run.id, lambda task: None)


def test_a_login_that_ends_meanwhile_is_no_state(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.login_page = True

    with pytest.raises(ConfigError, match="web page"):
        follow_run(kubeflow, run.id, lambda task: None)


def test_a_failed_run_names_the_step_and_its_cause(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    fake.course = [("FAILED", {"prepare-data": "SUCCEEDED", "train": "FAILED"})]
    ended = get_run(kubeflow, run.id)

    with pytest.raises(JobFailed, match=rf"failed at train.*rlvr logs {run.id}") as caught:
        check_outcome(ended)
    assert caught.value.exit_code == JobFailed.exit_code


def test_the_cause_is_taken_from_where_the_server_puts_it() -> None:
    detail = V2beta1PipelineTaskDetail(
        state_history=[
            V2beta1RuntimeStatus(state="RUNNING"),
            V2beta1RuntimeStatus(state="FAILED", error=GoogleRpcStatus(message="out of\nmemory")),
        ]
    )

    assert kubeflow_runs._error(detail) == "out of memory"


def test_a_terminated_run_may_be_continued(fake: FakeKubeflow, kubeflow: Kubeflow) -> None:
    run = start(kubeflow)
    terminate_run(kubeflow, run.id)
    assert get_run(kubeflow, run.id).state == "CANCELING"
    fake.course = [("CANCELED", {"train": "FAILED"})]

    ended = follow_run(kubeflow, run.id, lambda task: None)

    with pytest.raises(JobFailed, match="was terminated") as caught:
        check_outcome(ended)
    assert caught.value.exit_code == EXIT_PREEMPTED


def test_a_run_that_is_not_there_is_refused(kubeflow: Kubeflow) -> None:
    with pytest.raises(ConfigError, match="Run 7 not found"):
        get_run(kubeflow, "7")
