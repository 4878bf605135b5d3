"""Choose the next attempt: adopt, retry, stay failed, or stay deleted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs import JobSpec, JobStatus
from rlvr_components.jobs.cluster import (
    following,
)
from rlvr_components.jobs.cluster.attempts import record_failure
from rlvr_components.jobs.launching import launch
from rlvr_trainer.errors import ConfigError, JobFailed

from .fake_api_server import FakeApiServer
from .objects import (
    SPEC,
    Object,
    condition,
    said,
    terminated,
)
from .scenarios import (
    JOBS,
    backend,
    cannot_pull,
    fail,
    failed_job,
    has_no_room,
    is_deleted_by_somebody,
    later,
    live_job,
    retried,
    run_pods,
    runs,
    runs_out_of_memory_twice,
    succeed,
    trains,
)

pytestmark = pytest.mark.timeout(60)


def test_a_live_job_is_adopted_and_followed(api: FakeApiServer) -> None:
    job = live_job(api)
    run_pods(api, job)
    later(lambda: succeed(api, job))

    launch(backend(), SPEC)

    assert api.num_requests(f"POST .*{JOBS}") == 0


def test_a_live_job_with_the_runs_earlier_settings_is_not_joined_by_a_second_one(
    api: FakeApiServer,
) -> None:
    spec = replace(SPEC, run_id="run-1")
    job = live_job(api, spec=spec)
    run_pods(api, job)

    with pytest.raises(ConfigError, match=rf"{spec.name} still runs this step .*`rlvr stop"):
        launch(backend(), replace(spec, recipe_hash="ba9876543210"))

    assert api.num_requests(f"POST .*{JOBS}") == 0


def test_a_job_that_succeeded_is_adopted(api: FakeApiServer) -> None:
    live_job(api, conditions=[condition("Succeeded")])

    launch(backend(), SPEC)

    assert api.num_requests(f"POST .*{JOBS}") == 0


def test_a_retryable_failure_makes_the_next_attempt(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        if job["metadata"]["name"].endswith("-1"):
            state = terminated(138, message=said("a rank was killed", 138))
            later(lambda: fail(api, job, "worker-0", state))
        else:
            later(lambda: succeed(api, job))

    api.on_create = on_create

    launch(backend(), SPEC)

    assert [job["metadata"]["name"][-2:] for job in api.jobs()] == ["-1", "-2"]
    assert "worker-0: a rank was killed; it is retried" in capfd.readouterr().out


def test_the_number_of_attempts_is_limited(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        state = terminated(138, message=said("a rank was killed", 138))
        later(lambda: fail(api, job, "worker-0", state), 0.1)

    api.on_create = on_create

    with pytest.raises(JobFailed, match=r"2 jobs \(max_attempts 2\) failed; the last:") as caught:
        launch(backend(max_attempts=2), SPEC)

    assert caught.value.exit_code == 9
    assert len(api.jobs()) == 2


def test_within_a_pipeline_run_a_permanent_failure_stays_one(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path)
    failed_job(api, 3, spec=spec)

    with pytest.raises(JobFailed, match="ended with 3") as caught:
        launch(backend(), spec)

    assert caught.value.exit_code == 3
    assert len(api.jobs()) == 1


def test_within_a_pipeline_run_a_retryable_failure_is_retried(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path)
    failed_job(api, 143, spec=spec)
    trains(api)

    launch(backend(), spec)

    assert len(api.jobs()) == 2


def test_running_out_of_memory_twice_is_permanent(api: FakeApiServer, tmp_path: Path) -> None:
    spec = retried(tmp_path)
    failed_job(api, 137, 1, spec)
    failed_job(api, 137, 2, spec)

    with pytest.raises(JobFailed, match="for the second time") as caught:
        launch(backend(), spec)

    assert caught.value.exit_code == 9


@pytest.mark.parametrize("run_id", ["", "mine-0123456789ab"])
def test_starting_a_failed_job_again_makes_another_attempt(api: FakeApiServer, run_id: str) -> None:
    spec = replace(SPEC, run_id=run_id)
    failed_job(api, 3, spec=spec)
    trains(api)

    launch(backend(), spec)

    assert len(api.jobs()) == 2


@pytest.mark.parametrize(
    ("course", "settings", "exit_code", "cause"),
    [
        (runs, {"run_timeout_s": 1}, 7, "run_timeout_s"),
        (has_no_room, {"queue_timeout_s": 1}, 138, "queue_timeout_s"),
        (cannot_pull, {"start_grace_s": 1}, 2, "ImagePullBackOff"),
        (runs_out_of_memory_twice, {}, 9, "for the second time"),
        (is_deleted_by_somebody, {}, 7, "deleted by someone else"),
    ],
)
def test_within_a_pipeline_run_a_failure_by_deletion_stays_permanent(
    api: FakeApiServer,
    tmp_path: Path,
    course: Callable[[FakeApiServer, Object], None],
    settings: dict[str, int],
    exit_code: int,
    cause: str,
) -> None:
    spec = retried(tmp_path / "run")
    api.on_create = lambda job: course(api, job)

    for _ in range(3):  # the step and two retries
        with pytest.raises(JobFailed, match=cause) as caught:
            launch(backend(**settings), spec)
        assert caught.value.exit_code == exit_code

    assert api.num_requests(f"POST .*{JOBS}") == 1
    assert f"start a new run, or remove {spec.run_dir}/jobs/" in str(caught.value)
    assert not api.jobs()


def test_the_failure_is_recorded_before_the_job_is_deleted(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path)
    kept: list[Any] = []
    api.on_create = lambda job: run_pods(api, job)
    api.on_delete = lambda job: kept.extend(
        json.loads(path.read_text()) for path in tmp_path.glob("jobs/*.json")
    )

    with pytest.raises(JobFailed):
        launch(backend(run_timeout_s=1), spec)

    [end] = kept
    assert (end["attempt"], end["exit_code"]) == (1, 7)
    assert end["cause"].startswith("it ran for longer than run_timeout_s")


def test_a_job_that_exists_takes_precedence_over_its_record(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path)
    job = live_job(api, spec=spec)
    record_failure(job, JobStatus("failed", 138, "not all replicas ran within queue_timeout_s"))
    run_pods(api, job)
    later(lambda: succeed(api, job))

    launch(backend(), spec)

    assert api.num_requests(f"POST .*{JOBS}") == 0


def test_a_job_is_deleted_even_when_its_record_cannot_be_written(
    api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def on_create(job: Object) -> None:
        (tmp_path / "jobs").write_text("in the way of the folder")
        run_pods(api, job)

    api.on_create = on_create

    with pytest.raises(JobFailed, match="run_timeout_s"):
        launch(backend(run_timeout_s=1), retried(tmp_path))

    assert not api.jobs()
    assert "again after its deletion, since its record was not written" in caplog.text


def test_a_damaged_record_is_an_error(api: FakeApiServer, tmp_path: Path) -> None:
    spec = retried(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / f"{spec.name_of_all_attempts}.json").write_text('{"attempt": 1')

    with pytest.raises(ConfigError, match=r"is damaged .* remove it"):
        launch(backend(), spec)

    assert not api.jobs()


def test_starting_it_again_by_hand_makes_another_attempt(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = replace(SPEC, run_dir=str(tmp_path / "run"))
    api.on_create = lambda job: run_pods(api, job)
    with pytest.raises(JobFailed, match="run_timeout_s"):
        launch(backend(run_timeout_s=1), spec)
    trains(api)

    launch(backend(), spec)

    assert len(api.jobs()) == 1
    assert not (tmp_path / "run").exists()


def test_a_signal_is_not_recorded_as_a_deletion(api: FakeApiServer, tmp_path: Path) -> None:
    spec = retried(tmp_path)

    def on_create(job: Object) -> None:
        run_pods(api, job)
        later(lambda: os.kill(os.getpid(), signal.SIGTERM))

    api.on_create = on_create
    with pytest.raises(JobFailed) as caught:
        launch(backend(), spec)
    assert caught.value.exit_code == 143
    trains(api)

    launch(backend(), spec)

    assert api.num_requests(f"POST .*{JOBS}") == 2


def test_a_signal_during_a_check_is_not_recorded_as_a_deletion(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, launcher = retried(tmp_path), backend()
    api.on_create = lambda job: run_pods(api, job)

    def is_stopped_meanwhile(follower: following.Follower) -> None:
        if api.jobs() and follower._jobs.is_synced:
            launcher.stop(spec.name)
            while follower._jobs.objects():
                time.sleep(0.01)

    monkeypatch.setattr(following.Follower, "_check_api", is_stopped_meanwhile)

    with pytest.raises(JobFailed) as caught:
        launch(launcher, spec)

    assert caught.value.exit_code == 143
    assert not list(tmp_path.glob("jobs/*"))


def a_launcher_that_is_killed(spec: JobSpec) -> None:
    """Submit or adopt the job without following it."""
    launcher = backend()
    launcher.submit(launcher.render(launcher.next_attempt(spec)))


def delete(api: FakeApiServer, job: Object) -> None:
    api.remove("pytorchjobs", job["metadata"]["name"])


def begin_to_delete(api: FakeApiServer, job: Object) -> None:
    metadata = {**job["metadata"], "deletionTimestamp": "2026-11-25T03:00:00Z"}
    api.put("pytorchjobs", {**job, "metadata": metadata})


@pytest.mark.parametrize("num_launchers", [1, 2], ids=["submitted", "adopted"])
@pytest.mark.parametrize("delete", [delete, begin_to_delete])
def test_a_job_deleted_while_no_launcher_runs_is_reported_as_deleted_and_not_started_again(
    api: FakeApiServer,
    tmp_path: Path,
    delete: Callable[[FakeApiServer, Object], None],
    num_launchers: int,
) -> None:
    spec = retried(tmp_path / "run")
    for _ in range(num_launchers):
        a_launcher_that_is_killed(spec)
    [job] = api.jobs()
    delete(api, job)
    trains(api)

    for _ in range(2):  # Kubeflow's retries of the step
        with pytest.raises(
            JobFailed, match=r"deleted by someone else .* start a new run"
        ) as caught:
            launch(backend(), spec)
        assert caught.value.exit_code == 7

    assert api.num_requests(f"POST .*{JOBS}") == 1


def test_a_later_attempt_deleted_while_no_launcher_runs_is_reported_too(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path / "run")
    failed_job(api, 138, spec=spec)
    a_launcher_that_is_killed(spec)
    delete(api, api.jobs()[-1])
    trains(api)

    with pytest.raises(JobFailed, match="deleted by someone else"):
        launch(backend(), spec)

    assert [job["metadata"]["labels"]["rlvr.dev/attempt"] for job in api.jobs()] == ["1"]


def test_a_job_that_succeeded_and_was_cleaned_is_started_again(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path / "run")
    trains(api)
    launch(backend(), spec)
    delete(api, api.jobs()[0])

    launch(backend(), spec)

    assert api.num_requests(f"POST .*{JOBS}") == 2


def test_starting_a_deleted_job_again_by_hand_makes_a_new_one(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = replace(SPEC, run_dir=str(tmp_path / "run"))
    a_launcher_that_is_killed(spec)
    delete(api, api.jobs()[0])
    trains(api)

    launch(backend(), spec)

    assert len(api.jobs()) == 1
