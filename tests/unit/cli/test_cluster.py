"""Test the commands on jobs in a cluster, a fake here, and on local runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rlvr_components.jobs import JobSummary, Replica
from rlvr_components.jobs.kinds import Kind
from rlvr_components.platform.settings import Platform
from rlvr_pipelines.cli import main
from rlvr_pipelines.cluster import cluster_runs
from rlvr_pipelines.local.claim import claim
from rlvr_trainer.errors import ConfigError, PlatformError
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.run_dir.layout import RunDir

TINY = Path(__file__).parents[2] / "tiny.yaml"

TRAIN = JobSummary(
    name="rlvr-tiny-train-0a1b2c3d-2",
    kind="PyTorchJob",
    namespace="jobs",
    run="tiny",
    step="train",
    attempt=2,
    phase="running",
    progress_step="12/100",
    reward="0.61",
    run_dir="s3://bucket/runs/tiny",
    created="2026-11-25T03:00:00Z",
    age_s=90.0,
    replicas=(
        Replica("master-0", "Running", node="node-a"),
        Replica("worker-0", "Pending", reason="Unschedulable: 0/3 nodes are available"),
    ),
)
FAILED = replace(
    TRAIN,
    name="rlvr-tiny-train-0a1b2c3d-1",
    attempt=1,
    phase="failed",
    cause="OOMKilled: the limit is 16Gi",
    exit_code=138,
    created="2026-11-25T02:00:00Z",
    age_s=3690.0,
    replicas=(),
)
BASE = replace(
    TRAIN,
    name="rlvr-tiny-base-0a1b2c3d-1",
    step="evaluate-base",
    attempt=1,
    created="2026-11-25T02:30:00Z",
)


@dataclass
class FakeCluster:
    """A fake of `rlvr_components.jobs.cluster`: a list of jobs."""

    jobs: list[JobSummary] = field(default_factory=list)
    pods_left: int = 0
    """The number of looks that still see pods after a stop."""
    asked: list[dict[str, Any]] = field(default_factory=list)

    def find_jobs(self, **asked: Any) -> list[JobSummary]:
        self.asked.append(asked)
        criteria = {key: asked[key] for key in ("run", "run_id") if asked.get(key)}
        if asked.get("job"):
            criteria["name"] = asked["job"]
        return [
            job
            for job in self.jobs
            if all(getattr(job, name) == value for name, value in criteria.items())
        ]

    def open_backend(self, kind: Kind, platform: Platform, access: None) -> FakeCluster:
        assert (kind.place, platform.namespace) == ("pytorchjob", "jobs")
        return self

    def delete_jobs(self, jobs: Sequence[JobSummary], **_: Any) -> list[JobSummary]:
        self.jobs = [job for job in self.jobs if job not in jobs]
        return list(jobs)

    def stop(self, name: str) -> None:
        self.jobs = [job for job in self.jobs if job.name != name]

    def logs(self, name: str, *, follow: bool) -> Iterator[str]:
        yield f"[master-0] of {name}{', followed' if follow else ''}"

    def list(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        assert path == "/api/v1/namespaces/jobs/pods"
        assert query["labelSelector"].startswith("rlvr.dev/job in (rlvr-tiny-base-0a1b2c3d,")
        self.pods_left -= 1
        pod = {"metadata": {"name": "p", "deletionGracePeriodSeconds": 0},
               "status": {"phase": "Running"}}  # fmt: skip
        return {"items": [pod] if self.pods_left >= 0 else []}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster([TRAIN, BASE, FAILED])
    for name in ("find_jobs", "delete_jobs"):
        monkeypatch.setattr(cluster_runs, name, getattr(fake, name))
    monkeypatch.setattr(cluster_runs, "ClusterBackend", fake.open_backend)
    monkeypatch.setattr(cluster_runs, "KubernetesApi", lambda access: fake)
    monkeypatch.setattr(cluster_runs, "find_access", lambda context: None)
    monkeypatch.setattr(cluster_runs, "POLL_S", 0.001)
    return fake


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty directory without a kubeconfig."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def rlvr(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_status_shows_each_job_its_replicas_and_the_cause(cluster: FakeCluster) -> None:
    text = rlvr("status", "tiny", "--namespace", "jobs").stdout

    assert "train  running  attempt 2  step 12/100  reward 0.61\n" in text
    assert "  PyTorchJob jobs/rlvr-tiny-train-0a1b2c3d-2, 1 min 30 s old\n" in text
    assert "worker-0   Pending" in text
    assert "Unschedulable: 0/3 nodes are available" in text
    assert "train  failed  step 12/100  reward 0.61  exit code 138\n" in text
    assert "  OOMKilled: the limit is 16Gi\n" in text
    assert "kubectl -n jobs get pytorchjobs" in text
    assert "custom-columns" in text


def test_status_has_the_same_facts_as_json(cluster: FakeCluster) -> None:
    train, *_ = json.loads(rlvr("status", "tiny", "--output", "json").stdout)

    assert (train["kind"], train["job_kind"], train["phase"]) == ("job", "PyTorchJob", "running")
    assert train["replicas"][1]["reason"].startswith("Unschedulable")


def test_status_asks_kubectl_for_the_installed_kinds(cluster: FakeCluster) -> None:
    cluster.jobs = [TRAIN, replace(BASE, kind="TrainJob")]

    assert "kubectl get pytorchjobs,trainjobs -l" in rlvr("status", "tiny").stdout


def test_a_job_may_be_named_too(cluster: FakeCluster) -> None:
    facts = json.loads(rlvr("status", FAILED.name, "--output", "json").stdout)

    assert [job["name"] for job in facts] == [FAILED.name]
    assert cluster.asked[0]["run"] == FAILED.name  # a run's name takes precedence


def test_an_invalid_name_is_refused_with_advice(cluster: FakeCluster) -> None:
    result = rlvr("status", "other", "--namespace", "jobs")

    assert result.exit_code == ConfigError.exit_code
    assert "no run or job 'other' is in namespace jobs" in result.stderr
    assert "runs/other" in result.stderr


def test_without_a_name_everything_is_listed(cluster: FakeCluster, tmp_path: Path) -> None:
    with claim(tmp_path / "runs" / "mine", load_recipe(TINY)):
        pass

    lines = rlvr("status", "--namespace", "jobs").stdout.splitlines()

    assert lines[0].split() == ["RUN", "STEP", "PHASE", "PROGRESS", "REWARD", "WHERE"]
    assert lines[1].split() == ["tiny", "stopped", "runs/mine"]
    assert lines[2].split() == ["tiny", "train", "running", "12/100", "0.61", f"jobs/{TRAIN.name}"]
    assert len(lines[1:5]) == 4


def test_status_skips_the_cluster_unless_one_is_configured(cluster: FakeCluster) -> None:
    result = rlvr("status")

    assert result.exit_code == 0
    assert cluster.asked == []
    assert result.stderr == ""
    assert json.loads(rlvr("status", "--output", "json").stdout) == []


def test_an_unreachable_cluster_does_not_hide_local_runs(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def away(**_: Any) -> list[JobSummary]:
        raise PlatformError("the API server cannot be reached")

    monkeypatch.setattr(cluster_runs, "find_jobs", away)
    (tmp_path / "none").write_text("{}")
    with claim(tmp_path / "runs" / "mine", load_recipe(TINY)):
        pass

    result, asked = rlvr("status"), rlvr("status", "--namespace", "jobs")

    assert result.exit_code == 0
    assert "runs/mine" in result.stdout
    assert "the API server cannot be reached" in result.stderr
    assert asked.exit_code == PlatformError.exit_code


def test_logs_are_the_newest_attempts(cluster: FakeCluster) -> None:
    lines = rlvr("logs", "tiny").stdout.splitlines()

    assert sorted(lines) == [
        f"evaluate-base  [master-0] of {BASE.name}",
        f"train          [master-0] of {TRAIN.name}",
    ]


def test_logs_of_one_step_stand_alone(cluster: FakeCluster) -> None:
    result = rlvr("logs", "tiny", "-f", "--step", "train")

    assert result.stdout == f"[master-0] of {TRAIN.name}, followed\n"


def test_a_step_that_is_not_a_job_has_its_log_elsewhere(cluster: FakeCluster) -> None:
    result = rlvr("logs", "tiny", "--step", "prepare")

    assert result.exit_code == ConfigError.exit_code
    assert "tiny has no job of step prepare" in result.stderr


def test_stop_deletes_live_jobs_and_waits_for_their_pods(cluster: FakeCluster) -> None:
    cluster.pods_left = 3

    result = rlvr("stop", "tiny", "--output", "json")

    assert result.exit_code == 0, result.stderr
    assert cluster.jobs == [FAILED]
    assert cluster.pods_left < 0
    assert json.loads(result.stdout)["jobs"] == [TRAIN.name, BASE.name]
    assert f"deleting {TRAIN.name}: its pods commit a checkpoint" in result.stderr
    assert "nothing of tiny is running; what it committed stays in s3://bucket/runs/tiny" in (
        result.stderr
    )


def test_stop_reports_pods_that_do_not_terminate(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.pods_left = 10_000
    monkeypatch.setattr(cluster_runs, "STOP_MARGIN_S", -120)

    result = rlvr("stop", "tiny")

    assert result.exit_code == PlatformError.exit_code
    assert "p still runs" in result.stderr


def test_stop_does_not_choose_among_runs_of_one_name(cluster: FakeCluster) -> None:
    other = replace(TRAIN, name="rlvr-tiny-train-99999999-1", run_dir="s3://bucket/runs/other")
    cluster.jobs.append(other)

    result = rlvr("stop", "tiny")

    assert result.exit_code == 2
    assert "'tiny' names 2 live runs" in result.stderr
    assert other.name in result.stderr
    assert len(cluster.jobs) == 4


def test_stopping_finished_jobs_is_not_an_error(cluster: FakeCluster) -> None:
    cluster.jobs = [FAILED]

    result = rlvr("stop", "tiny")

    assert result.exit_code == 0
    assert result.stderr == "nothing of tiny is running\n"
    assert cluster.jobs == [FAILED]


def test_clean_deletes_finished_jobs_only(cluster: FakeCluster) -> None:
    shown = rlvr("clean", "--dry-run")
    assert shown.stdout == f"{FAILED.name}  failed  would be deleted\n"
    assert len(cluster.jobs) == 3

    assert rlvr("clean").stdout == f"{FAILED.name}  failed  deleted\n"
    assert cluster.jobs == [TRAIN, BASE]


@pytest.mark.parametrize(("age", "num_deleted"), [("90m", 0), ("1h", 1), ("7d", 0), ("3690s", 1)])
def test_clean_keeps_young_jobs(age: str, num_deleted: int, cluster: FakeCluster) -> None:
    facts = json.loads(rlvr("clean", "tiny", "--older-than", age, "--output", "json").stdout)

    assert len(facts["jobs"]) == num_deleted


def test_an_invalid_age_is_refused(cluster: FakeCluster) -> None:
    result = rlvr("clean", "--older-than", "week")

    assert result.exit_code == 2
    assert "write 90m, 12h or 7d" in result.stderr


def test_clean_is_not_for_run_directories(tmp_path: Path) -> None:
    result = rlvr("clean", str(tmp_path))

    assert result.exit_code == ConfigError.exit_code
    assert "is a run directory" in result.stderr


def test_a_run_here_is_shown_read_and_stopped(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; "
        "from rlvr_pipelines.local.claim import claim; "
        "from rlvr_trainer.recipe.reader import load_recipe\n"
        "with claim(Path(sys.argv[1]), load_recipe(sys.argv[2])):\n"
        "    print('ready', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run_dir = RunDir(tmp_path / "mine")
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run_dir.path), str(TINY)],
        env=environment, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        run_dir.log.write_text("    started step train\n    step 1\n")
        try:
            status = rlvr("status", str(run_dir.path)).stdout
            logs = rlvr("logs", str(run_dir.path), "--step", "train").stdout
            stopped = rlvr("stop", str(run_dir.path), "--output", "json")
        finally:
            process.kill()

    assert status.startswith(f"tiny  running, process {process.pid}, in {run_dir.path}\n")
    assert logs == "    started step train\n    step 1\n"
    assert json.loads(stopped.stdout) == {
        "run": str(run_dir.path), "kind": "local", "stopped": True, "phase": "stopped",
    }  # fmt: skip
    assert f"nothing of {run_dir.path} is running" in stopped.stderr
