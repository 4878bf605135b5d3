"""Test the last step with fakes of find_jobs and delete_jobs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from rlvr_components.jobs import JobSummary, cluster
from rlvr_components.pipeline_run import (
    LaunchSettings,
    may_have_live_jobs,
    record_launch,
    write_settings,
)
from rlvr_components.platform.settings import Platform
from rlvr_components.steps import finish as finish_module
from rlvr_components.steps.finish import finish
from rlvr_components.steps.run_outcome import Outcome
from rlvr_components.workflow import Failure
from rlvr_trainer.errors import PlatformError
from rlvr_trainer.storage import open_storage


def job(name: str, phase: Literal["pending", "running", "succeeded", "failed"]) -> JobSummary:
    return JobSummary(name, "PyTorchJob", "team", "tiny", "train", 1, phase)


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    deleted: list[str] = []

    def find(**criteria: Any) -> list[JobSummary]:
        assert criteria == {"namespace": "team", "run_id": "b2c0"}
        return [job("a", "succeeded"), job("b", "running"), job("c", "pending"), job("d", "failed")]

    def delete(jobs: Sequence[JobSummary]) -> list[JobSummary]:
        deleted.extend(job.name for job in jobs)
        return list(jobs)

    monkeypatch.setattr(cluster, "find_jobs", find)
    monkeypatch.setattr(cluster, "delete_jobs", delete)
    monkeypatch.setenv("RLVR_RUN_ID", "b2c0")
    return deleted


def test_running_jobs_are_deleted_and_the_outcome_is_kept(
    deleted: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "b2c0"
    platform = Platform(image="r.example/t", namespace="team")
    write_settings(open_storage(folder), LaunchSettings("pytorchjob", "tiny", platform))
    record_launch(open_storage(folder), is_launched=True)

    text = finish(str(tmp_path), "", "FAILED", "train failed")

    assert deleted == ["b", "c"]
    assert text.startswith("# Failed\n\ntrain failed (exit code 7)\n\nTo continue: ")
    assert text.endswith("\n\nDeleted jobs that were still running: `b`, `c`.\n")
    assert json.loads((folder / "outcome.json").read_text()) == {
        "state": "FAILED",
        "step": "",
        "attempt": 0,
        "message": "train failed",
        "exit_code": 7,
        "deleted": ["b", "c"],
        "left": [],
    }


def test_a_job_whose_launcher_was_lost_is_left_to_the_runs_retry(
    deleted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "b2c0"
    platform = Platform(image="r.example/t", namespace="team")
    write_settings(open_storage(folder), LaunchSettings("pytorchjob", "tiny", platform))
    outcome = Outcome("FAILED", "train", 1, Failure("its pod was lost", 138), lost=("train",))
    monkeypatch.setattr(finish_module, "read_outcome", lambda *_: outcome)
    monkeypatch.setenv("KFP_POD_NAME", "step-1")

    text = finish(str(tmp_path), "", "RUNNING", "")

    assert deleted == []
    assert "**Still running**, for KFP's Retry to adopt: `b`, `c`; `rlvr stop b2c0` stops" in text
    facts = json.loads((folder / "outcome.json").read_text())
    assert (facts["deleted"], facts["left"]) == ([], ["b", "c"])
    assert may_have_live_jobs(open_storage(folder))


def test_a_job_that_the_run_deletes_may_be_started_again_by_its_retry(
    deleted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "run" / "jobs" / "rlvr-tiny-train-0a1b.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    live = JobSummary(
        "rlvr-tiny-train-0a1b-2", "PyTorchJob", "team", "tiny", "train", 2, "running",
        run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    monkeypatch.setattr(cluster, "find_jobs", lambda **_: [live])
    monkeypatch.setenv("KFP_POD_NAME", "step-1")
    monkeypatch.setenv("RLVR_NAMESPACE", "team")

    finish("", "minio://m/b2c0/o", "RUNNING", "")

    assert deleted == [live.name]
    assert not record.exists()


def test_jobs_are_deleted_even_if_the_storage_is_unavailable(
    deleted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "step-1")
    monkeypatch.setenv("RLVR_NAMESPACE", "team")

    finish("", "minio://mlpipeline/b2c0/outcome", "FAILED", "")

    assert deleted == ["b", "c"]


def test_jobs_are_deleted_even_if_the_settings_cannot_be_read(
    deleted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "step-1")
    monkeypatch.setenv("RLVR_NAMESPACE", "team")
    (tmp_path / "b2c0").mkdir()
    (tmp_path / "b2c0" / "launch.json").write_text('{"place": "pytorchjob"')

    finish(str(tmp_path), "", "FAILED", "")

    assert deleted == ["b", "c"]


def test_it_does_not_claim_that_nothing_runs_without_looking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "step-1")
    monkeypatch.setenv("RLVR_RUN_ID", "b2c0")

    def find(**criteria: Any) -> list[JobSummary]:
        raise PlatformError("the API server does not answer")

    monkeypatch.setattr(cluster, "find_jobs", find)

    assert "Jobs may be left running" in finish("", "minio://m/b2c0/o", "FAILED", "")


def test_the_cluster_is_asked_only_where_a_job_was_launched_since_it_was_asked_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(**_: Any) -> list[JobSummary]:
        asked.append("once")
        raise PlatformError("the API server cannot be reached")

    def nothing(**_: Any) -> list[JobSummary]:
        asked.append("again")
        return []

    monkeypatch.setenv("RLVR_RUN_ID", "b2c0")
    storage = open_storage(tmp_path / "b2c0")
    write_settings(storage, LaunchSettings("pytorchjob", "tiny", Platform(image="r.example/t")))
    monkeypatch.setattr(cluster, "find_jobs", unreachable)

    assert "No jobs were left running" in finish(str(tmp_path), "", "FAILED", "check failed")
    assert asked == []

    record_launch(storage, is_launched=True)
    assert "may be left running" in finish(str(tmp_path), "", "FAILED", "")
    assert json.loads(storage.read_bytes("outcome.json"))["deleted"] is None

    monkeypatch.setattr(cluster, "find_jobs", nothing)
    monkeypatch.setattr(cluster, "delete_jobs", list)
    for _ in range(2):
        assert "No jobs were left running" in finish(str(tmp_path), "", "FAILED", "")
    assert asked == ["once", "again"]


def test_a_run_that_launched_nothing_leaves_nothing(deleted: list[str], tmp_path: Path) -> None:
    assert finish(str(tmp_path), "", "SUCCEEDED", "") == (
        "# Succeeded\n\nNo jobs were left running.\n"
    )
    assert finish("", "minio://mlpipeline/b2c0/outcome", "FAILED", "").startswith("# Failed")
    assert deleted == []
    assert not (tmp_path / "b2c0").exists()
