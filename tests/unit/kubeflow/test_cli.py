from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kfp_server_api import V2beta1Experiment

from rlvr_pipelines.cli import main
from rlvr_pipelines.cluster import cluster_runs
from rlvr_pipelines.kubeflow import kubeflow_runs, kubeflow_steps
from rlvr_pipelines.pipeline.definition import rlvr_pipeline
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, PlatformError
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe

from .conftest import Serve
from .fake_api import FakeKubeflow
from .workflows import pod_of

CAUSE = """the executor's input
started step train
error: recipe: no such task; choose one (exit code 2)
"""
TINY = str(Path(__file__).parents[2] / "tiny.yaml")


def rlvr(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def run(fake: FakeKubeflow, *arguments: str) -> Result:
    return rlvr("run", TINY, "--on", "kubeflow", "--endpoint", fake.url, *arguments)


def parameters(fake: FakeKubeflow) -> dict[str, Any]:
    (started,) = fake.runs.values()
    sent: dict[str, Any] = started.runtime_config.parameters
    return sent


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow_runs, "POLL_S", 0.001)


def test_a_run_prints_its_link_and_how_to_look_at_it(serve: Serve) -> None:
    fake = serve()

    result = run(fake, "--run-name", "first")

    assert result.exit_code == 0, result.stderr
    (run_id,) = fake.runs
    assert result.stdout == f"{fake.url}/#/runs/details/{run_id}\n"
    assert f"rlvr status {run_id} --endpoint {fake.url}\n" in result.stderr
    assert fake.runs[run_id].display_name == "first"


def test_options_not_given_keep_the_forms_defaults(serve: Serve) -> None:
    fake = serve()

    run(fake, "--seed", "7")

    assert parse_recipe(parameters(fake)["recipe"]) == load_recipe(TINY, ["seed=7"])
    assert parameters(fake).keys() == {"recipe", "job_place"}


def test_every_option_of_a_job_is_a_parameter_of_the_pipeline(serve: Serve, tmp_path: Path) -> None:
    fake = serve()
    (tmp_path / "platform.yaml").write_text("image: a\nshm_gib: 4\n")

    run(
        fake, "--job", "trainjob", "--storage", "s3://bucket/runs", "--nodes", "2", "--gpus", "8",
        "--namespace", "jobs", "--platform", str(tmp_path / "platform.yaml"),
        "--platform-set", "image=b", "--platform-set", "node_selector.a.b/c=d",
    )  # fmt: skip

    sent = parameters(fake)
    assert sent.keys() <= set(rlvr_pipeline.pipeline_spec.root.input_definitions.parameters)
    assert json.loads(sent.pop("job_platform")) == {
        "image": "b", "shm_gib": 4, "node_selector": {"a.b/c": "d"},
    }  # fmt: skip
    del sent["recipe"]
    assert sent == {
        "job_place": "trainjob",
        "storage_uri": "s3://bucket/runs",
        "job_num_nodes": 2,
        "job_gpus_per_node": 8,
        "job_namespace": "jobs",
    }


def test_in_a_profile_the_jobs_stay_in_it(serve: Serve) -> None:
    fake = serve(multi_user=True, namespaces=("me",))

    run(fake, "--namespace", "me")

    assert "job_namespace" not in parameters(fake)
    assert fake.experiments["experiment-1"].namespace == "me"


def test_a_file_of_this_machine_is_pointed_out(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")

    result = run(serve(), "--set", f"data.train={tmp_path}/rows.jsonl")

    assert f"note: {tmp_path}/rows.jsonl is on this machine" in result.stderr


def test_a_file_of_this_machine_is_pointed_out_where_the_pipeline_is_compiled_or_uploaded(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    file = ("--set", f"data.train={tmp_path}/rows.jsonl")

    compiled = rlvr("compile", TINY, "-o", str(tmp_path / "pipeline.yaml"), *file)
    uploaded = rlvr("upload", TINY, "--endpoint", serve().url, *file)

    assert f"note: {tmp_path}/rows.jsonl is on this machine" in compiled.stderr
    assert f"note: {tmp_path}/rows.jsonl is on this machine" in uploaded.stderr


def test_without_cache_nothing_is_reused(serve: Serve) -> None:
    fake = serve()

    run(fake, "--no-cache")

    (started,) = fake.runs.values()
    assert "enableCache" not in json.dumps(started.pipeline_spec)


def test_waiting_follows_the_run_and_ends_as_it_does(serve: Serve) -> None:
    fake = serve()
    fake.course = [
        ("RUNNING", {"prepare-data": "RUNNING"}),
        ("SUCCEEDED", {"prepare-data": "SUCCEEDED"}),
    ]

    result = run(fake, "--wait")

    assert result.exit_code == 0
    said = result.stderr
    assert said.index("running") < said.index("succeeded")


def test_waiting_for_what_fails_ends_with_its_cause_and_exit_code(serve: Serve) -> None:
    fake = serve()
    fake.course = [("FAILED", {"check": "FAILED", "train": "OMITTED"})]
    fake.logs[pod_of("check")] = CAUSE

    result = run(fake, "--wait", "--output", "json")

    assert result.exit_code == ConfigError.exit_code
    (run_id,) = fake.runs
    assert "failed at check: recipe: no such task; choose one (exit code 2)" in result.stderr
    assert f"its log: rlvr logs {run_id} --endpoint {fake.url}" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["state"], facts["exit_code"]) == ("FAILED", 2)
    check = facts["tasks"][0]
    assert (check["name"], check["state"], check["exit_code"]) == ("check", "FAILED", 2)
    assert check["error"] == "recipe: no such task; choose one"
    assert [attempt["pod"] for attempt in check["attempts"]] == [pod_of("check")]


def test_waiting_for_what_is_terminated_ends_as_preempted(serve: Serve) -> None:
    fake = serve()
    fake.course = [("CANCELING", {"train": "RUNNING"}), ("FAILED", {"train": "TERMINATED"})]

    result = run(fake, "--wait")

    assert result.exit_code == EXIT_PREEMPTED
    assert "was terminated at" in result.stderr


def test_status_reports_the_same_as_wait(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serve()
    run(fake)
    (run_id,) = fake.runs
    fake.course = [("FAILED", {"check": "FAILED"})]
    fake.logs[pod_of("check")] = CAUSE
    asked: list[str] = []
    monkeypatch.setattr(
        cluster_runs, "find_jobs", lambda **query: asked.append(query["namespace"]) or []
    )

    result = rlvr("status", run_id, "--endpoint", fake.url, "--namespace", "another")

    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[2].startswith(
        "check                   failed  after 3 min 00 s  recipe: no such task"
    )
    assert "train                   not run" in lines
    assert "failed at check: recipe: no such task; choose one (exit code 2)" in lines[-1]
    assert asked == ["kubeflow"], "the run's own namespace"


def test_logs_are_those_of_every_step_through_kubeflow_alone(serve: Serve) -> None:
    fake = serve()
    run(fake)
    (run_id,) = fake.runs
    course = ("FAILED", {"check": "SUCCEEDED", "train": ["LOST", "FAILED"], "finish": "SUCCEEDED"})
    fake.course = [course]
    fake.logs = {pod_of("check"): "fine\n", pod_of("train", 1): CAUSE, pod_of("finish"): "bye\n"}

    result = rlvr("logs", run_id, "--endpoint", fake.url)

    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "check               fine"
    assert "cannot be read" in lines[1]
    assert "the log of attempt 1" in lines[1]
    assert "not found" in lines[1], "the API server's message, not the unknown path"
    assert lines[2:] == [
        "train               started step train",
        "train               error: recipe: no such task; choose one (exit code 2)",
        "finish              bye",
    ]

    of_one = rlvr("logs", run_id, "--endpoint", fake.url, "--step", "finish")
    assert of_one.stdout == "bye\n"


def test_logs_come_through_the_ui_too(serve: Serve) -> None:
    fake = serve(is_ui=True)
    run(fake)
    (run_id,) = fake.runs
    fake.course = [("SUCCEEDED", {"check": "SUCCEEDED"})]
    fake.logs = {pod_of("check"): "fine\n"}

    result = rlvr("logs", run_id, "--endpoint", fake.url, "--step", "check")

    assert result.stdout == "fine\n"


def test_following_a_log_prints_each_line_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve()
    run(fake)
    (run_id,) = fake.runs
    fake.course = [("RUNNING", {"check": "RUNNING"}), ("SUCCEEDED", {"check": "SUCCEEDED"})]
    fake.logs = {pod_of("check"): "started step check\none\n"}

    def sleep(seconds: float) -> None:
        fake.logs = {pod_of("check"): "started step check\none\ntwo\n"}

    monkeypatch.setattr(kubeflow_steps.time, "sleep", sleep)

    result = rlvr("logs", run_id, "-f", "--step", "check", "--endpoint", fake.url)

    assert result.stdout == "started step check\none\ntwo\n"


def test_a_run_without_pods_has_no_log(serve: Serve) -> None:
    fake = serve()
    run(fake)
    (run_id,) = fake.runs

    result = rlvr("logs", run_id, "--endpoint", fake.url)

    assert result.exit_code == ConfigError.exit_code
    assert f"rlvr status {run_id} --endpoint {fake.url}" in result.stderr


def test_interrupting_the_wait_leaves_the_run(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kubeflow_runs.time, "sleep", interrupt)
    result = run(fake, "--wait")

    (run_id,) = fake.runs
    assert result.exit_code == 130
    assert f"The run continues; to stop it: rlvr stop {run_id}" in result.stderr
    assert fake.runs[run_id].state == "PENDING"


def test_facts_go_to_standard_output_alone(serve: Serve) -> None:
    fake = serve()

    facts = json.loads(run(fake, "--output", "json").stdout)

    assert (facts["kind"], facts["state"]) == ("kubeflow", "PENDING")
    assert facts["link"].endswith(facts["run"])


@pytest.mark.parametrize(
    ("settings", "words", "exit_code"),
    [
        ({"failures": [401]}, "does not know who is calling", ConfigError.exit_code),
        ({"failures": [403]}, "denies the request", ConfigError.exit_code),
        ({"failures": [404]}, "2.5 or newer", ConfigError.exit_code),
        ({"failures": [503]}, "try again later", PlatformError.exit_code),
        ({"version": "2.3.0"}, "needs 2.5 or newer", ConfigError.exit_code),
        ({"multi_user": True}, "add --namespace", ConfigError.exit_code),
        ({"login_page": True}, "web page", ConfigError.exit_code),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(
    settings: dict[str, Any], words: str, exit_code: int, serve: Serve
) -> None:
    fake = serve(**settings)

    result = run(fake)

    assert result.exit_code == exit_code
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert fake.runs == {}


def test_an_archived_experiment_is_refused(serve: Serve) -> None:
    fake = serve()
    fake.experiments["old"] = V2beta1Experiment(
        experiment_id="old", display_name="old", storage_state="ARCHIVED"
    )

    result = run(fake, "--experiment", "old")

    assert result.exit_code == ConfigError.exit_code
    assert "is archived" in result.stderr


def test_a_token_is_never_shown(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_KUBEFLOW_TOKEN", "very-secret")
    fake = serve(token="another")

    result = run(fake)

    assert result.exit_code == ConfigError.exit_code
    assert "very-secret" not in result.output


def test_stop_does_not_say_that_nothing_runs_where_it_found_no_job(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve()
    run(fake)
    (run_id,) = fake.runs
    monkeypatch.setattr(cluster_runs, "find_jobs", lambda **_: [])

    result = rlvr("stop", run_id, "--endpoint", fake.url, "--output", "json")

    assert result.exit_code == 0, result.stderr
    assert "it has no job in the namespace of the kubeconfig" in result.stderr
    assert "is running" not in result.stderr
    assert json.loads(result.stdout)["jobs"] == []


def test_upload_says_what_it_did(serve: Serve) -> None:
    fake = serve()
    upload = ("upload", TINY, "--endpoint", fake.url)

    first, again = rlvr(*upload), rlvr(*upload)
    facts = json.loads(rlvr(*upload, "--output", "json").stdout)

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "rlvr-tiny is a new pipeline" in first.stdout
    assert "has this version already" in again.stdout
    assert facts["outcome"] == "unchanged"
    assert facts["link"] in first.stdout
    assert fake.versions[facts["version_id"]].display_name == facts["version"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--on", "local", "--wait"), "--wait is for --on kubeflow, not for --on local"),
        (("--storage", "s3://b"), "--storage is for --on pytorchjob and trainjob and kubeflow"),
        (("--on", "kubeflow", "--sweep", "seed=1,2"), "--sweep is for --on local"),
        (("--on", "pytorchjob", "--endpoint", "http://x"), "--endpoint is for --on kubeflow"),
    ],
)
def test_an_option_without_effect_is_refused(arguments: tuple[str, ...], words: str) -> None:
    result = rlvr("run", TINY, *arguments)

    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
