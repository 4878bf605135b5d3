"""The commands on jobs of our fake of SageMaker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from tests.fakes.fake_sagemaker import FakeSageMaker
from tests.unit.sagemaker.launches import SETTINGS, UNTIL_TERMINATED, program, spec_of

from rlvr_components.sagemaker import run_jobs
from rlvr_components.sagemaker.sagemaker_backend import SageMakerBackend
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_pipelines.cli import main
from rlvr_pipelines.sagemaker.sagemaker_runs import uses_aws
from rlvr_trainer.storage import open_storage

EVENT = {"time": 1.0, "event": "step", "step": 12, "max_steps": 100, "reward": 0.61}


def rlvr(*words: str) -> Result:
    return CliRunner().invoke(main, [*words, "--on", "sagemaker"])


@pytest.fixture
def run(sagemaker: FakeSageMaker, s3: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return the names of an evaluation that has succeeded, and of a training that runs."""
    monkeypatch.setattr(run_jobs, "POLL_S", 0.05)
    settings = SageMaker.model_validate(SETTINGS)
    backend, names = SageMakerBackend(settings), []
    for step, code in (("evaluate-base", "print('correct')"), ("train", UNTIL_TERMINATED)):
        sagemaker.command = program(code)
        spec = spec_of(s3, settings, step=step)
        names.append(backend.submit(backend.render(backend.next_attempt(spec))))
        sagemaker.wait(names[-1], "Training" if step == "train" else "Completed")
    open_storage(f"{s3}/sums-1").write_bytes("metrics.jsonl", f"{json.dumps(EVENT)}\n".encode())
    return names[0], names[1]


def test_status_shows_the_jobs_and_their_progress(run: tuple[str, str]) -> None:
    base, train = run
    text = rlvr("status", "sums").output
    assert f"SageMaker us-east-1/{train}" in text
    assert "train  running  step 12/100  reward 0.610" in text
    assert "evaluate-base  succeeded" in text
    assert "billed 1 s on 1 x ml.g6e.48xlarge" in text
    assert "algo-1" in text
    listed = json.loads(rlvr("status", "--output", "json").output)
    assert [job["name"] for job in listed] == [train, base]
    assert json.loads(rlvr("status", "sums-1", "--output", "json").output)[0]["run"] == "sums"
    missing = rlvr("status", "products")
    assert missing.exit_code == 2
    assert "no run or job 'products' is on SageMaker in us-east-1" in missing.output


def test_logs_prints_the_lines_of_a_step(run: tuple[str, str]) -> None:
    assert rlvr("logs", "sums", "--step", "evaluate-base").output == "[algo-1] correct\n"
    assert "has no job of step report" in rlvr("logs", "sums", "--step", "report").output


def test_stop_waits_for_the_end_and_twice_is_no_error(
    run: tuple[str, str], sagemaker: FakeSageMaker
) -> None:
    first = json.loads(rlvr("stop", "sums", "--output", "json").stdout)
    assert first["jobs"] == [run[1]]
    assert sagemaker.jobs[run[1]].status == "Stopped"
    again = json.loads(rlvr("stop", "sums", "--output", "json").stdout)
    assert (again["stopped"], again["jobs"]) == (False, [])


def test_clean_lists_what_a_run_left_and_deletes_it(
    run: tuple[str, str], sagemaker: FakeSageMaker, s3: str
) -> None:
    base, train = run
    listed = rlvr("clean", "sums", "--with-run-dir", "--dry-run").output
    assert f"{base}  succeeded  would be deleted" in listed
    assert f"{base}/algo-1-" in listed
    assert train not in listed  # it runs, and needs the run directory
    assert s3 not in listed
    assert len(sagemaker.jobs) == 2

    rlvr("stop", "sums")
    kept = rlvr("clean", "sums", "--dry-run").output
    assert f"{s3}/sums-1  1 files, 0.0 MiB  stays; --with-run-dir deletes it" in kept
    done = rlvr("clean", "sums", "--with-run-dir")
    assert done.exit_code == 0, done.output
    assert not sagemaker.jobs
    assert open_storage(s3).list("") == []
    assert "no job has ended" in rlvr("clean").output


def test_the_place_of_jobs_is_the_cluster_or_else_sagemaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    assert not uses_aws(nothing)
    assert uses_aws({**nothing, "AWS_PROFILE": "work"})
    (tmp_path / "credentials").write_text("[default]\n")
    assert uses_aws(nothing)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    # nothing on SageMaker is deleted unless that is said
    assert "SageMaker" not in CliRunner().invoke(main, ["clean"]).output
    refused = CliRunner().invoke(main, ["clean", "--on", "cluster", "--with-run-dir"])
    assert "--with-run-dir is for --on sagemaker" in refused.output


def test_a_plan_asks_nothing_and_shows_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS, "instance_type": "ml.m5.xlarge"}
    Path("settings.yaml").write_text(yaml.safe_dump(settings))
    words = ["plan", "arithmetic", "--storage", "s3://bucket/runs", "--sagemaker", "settings.yaml"]
    done = rlvr(*words, "--nodes", "2", "--sagemaker-set", "keep_alive_s=1800")
    assert done.exit_code == 0, done.output
    request = yaml.safe_load(done.output.partition("---\n")[2])
    assert request["ResourceConfig"]["InstanceCount"] == 2
    assert request["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 1800
    assert "3 jobs: evaluate-base, train, evaluate-trained; the instances stay for up to" in (
        done.output
    )
    wrong = rlvr(*words, "--sagemaker-set", "instance_type=ml.m5.xlrage")
    assert wrong.exit_code == 2
    assert "has no instance type 'ml.m5.xlrage' (did you mean 'ml.m5.xlarge'?)" in wrong.output
    gpus = rlvr(*words, "--gpus", "8")
    assert "--gpus is for --on pytorchjob and trainjob" in gpus.output
