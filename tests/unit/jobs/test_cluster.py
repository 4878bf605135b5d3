"""A launch, from its first request to its end, against an API server that misbehaves."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs import JobSpec, JobStatus, cluster
from rlvr_components.jobs.cluster import (
    CUSTOM_COLUMNS,
    ClusterBackend,
    delete_jobs,
    find_jobs,
    open_backend,
)
from rlvr_components.jobs.kube import client, ends, following, submission, watching
from rlvr_components.jobs.kube.access import find_access
from rlvr_components.jobs.kube.kept_ends import keep_end
from rlvr_components.jobs.launch import launch
from rlvr_components.platform import Platform
from rlvr_trainer.errors import ConfigError, JobFailed, PlatformError

from .fake_api_server import FakeApiServer, Fault
from .objects import (
    FAILED,
    PLATFORM,
    SPEC,
    Object,
    condition,
    event,
    pod,
    said,
    terminated,
    waiting,
)

pytestmark = pytest.mark.timeout(60)
JOBS = "/pytorchjobs"


def backend(**settings: Any) -> ClusterBackend:
    return open_backend("pytorchjob", PLATFORM.model_copy(update=settings))


def pods_of(job: Object, *replicas: str, **options: Any) -> list[Object]:
    """Pods as the operator makes them for a job that was just created."""
    name = job["metadata"]["name"]
    made = [pod(each, job=name, **options) for each in replicas or ("master-0", "worker-0")]
    for each in made:
        each["metadata"]["creationTimestamp"] = job["metadata"]["creationTimestamp"]
        each["metadata"]["uid"] += str(time.monotonic_ns())
    return made


def run_pods(api: FakeApiServer, job: Object, *replicas: str, **options: Any) -> None:
    for each in pods_of(job, *replicas, **options):
        api.put("pods", each)


def end_pod(api: FakeApiServer, name: str, state: Object, phase: str = "Failed") -> None:
    statuses = [{"name": "pytorch", "restartCount": 0, "state": state}]
    api.change("pods", name, phase=phase, containerStatuses=statuses)
    api.end_log(name)


def succeed(api: FakeApiServer, job: Object) -> None:
    name = job["metadata"]["name"]
    for each in [name for kind, name in api.objects if kind == "pods"]:
        end_pod(api, each, terminated(0, reason="Completed"), "Succeeded")
    api.change("pytorchjobs", name, conditions=[condition("Succeeded")])


def fail(api: FakeApiServer, job: Object, replica: str, state: Object) -> None:
    end_pod(api, f"{job['metadata']['name']}-{replica}", state)
    api.change("pytorchjobs", job["metadata"]["name"], conditions=[FAILED])


def later(act: Callable[[], object], after_s: float = 0.1) -> None:
    threading.Timer(after_s, act).start()


def trains(api: FakeApiServer, after_s: float = 0.1) -> None:
    """A job that is created trains and succeeds."""

    def on_create(job: Object) -> None:
        run_pods(api, job)
        later(lambda: succeed(api, job), after_s)

    api.on_create = on_create


def launcher_threads() -> list[str]:
    named = [each.name for each in threading.enumerate()]
    return [each for each in named if each.startswith(("watch ", "logs ", "progress"))]


# ------------------------------------------------------------- one job


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
    assert [each for each in lines if "step" in each] == ["[master-0] step 1", "[master-0] step 2"]
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


def test_what_is_rendered_is_what_is_sent(api: FakeApiServer) -> None:
    trains(api)
    launcher = backend()
    rendered = launcher.render(SPEC)

    launch(launcher, SPEC)

    [sent] = api.jobs()
    assert sent["spec"] == rendered["spec"]
    assert sent["metadata"]["labels"] == rendered["metadata"]["labels"]
    assert sent["metadata"]["labels"]["rlvr.dev/job"] == SPEC.name_of_all_attempts


# ----------------------------------------------------------- row 15, 16


def test_a_create_whose_answer_is_lost_finds_its_job(api: FakeApiServer) -> None:
    trains(api)
    api.faults = [Fault("POST", JOBS, lose_answer=True)]

    launch(backend(), SPEC)

    assert api.num_requests(f"POST .*{JOBS}") == 1
    assert len(api.jobs()) == 1


def test_a_create_that_is_answered_with_an_error_is_tried_again(api: FakeApiServer) -> None:
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


def test_a_name_that_is_taken_by_somebody_elses_job_is_an_error(api: FakeApiServer) -> None:
    rendered = backend().render(SPEC)
    api.put("pytorchjobs", {**rendered, "metadata": {"name": SPEC.name}})

    with pytest.raises(ConfigError, match=r"exists and is not one of rlvr's"):
        backend().submit(rendered)


def test_a_job_that_is_being_deleted_is_awaited(api: FakeApiServer) -> None:
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


def ending(pod: Object) -> Object:
    return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": "2026-11-25T03:00:00Z"}}


def test_the_pods_of_an_earlier_job_of_its_name_are_awaited(api: FakeApiServer) -> None:
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


def test_a_pod_that_never_ends_is_left_to_the_operator(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(submission, "GONE_TIMEOUT_S", 0.2)
    api.put("pods", ending(pod("master-0", job=SPEC.name)))
    launcher = backend()

    launcher.submit(launcher.render(SPEC))

    assert len(api.jobs()) == 1
    assert f"there still are {SPEC.name}-master-0" in caplog.text


def test_a_signal_while_earlier_pods_end_leaves_no_job(api: FakeApiServer) -> None:
    api.put("pods", ending(pod("master-0", job=SPEC.name)))
    later(lambda: os.kill(os.getpid(), signal.SIGTERM), 0.3)

    error = stopping(api)

    assert error.exit_code == 143
    assert api.num_requests(f"POST .*{JOBS}") == 0


def test_a_job_whose_name_still_has_ending_pods_is_not_given_up(
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


# -------------------------------------------------------------- row 17


def test_a_watch_goes_on_after_it_was_closed_cut_and_forgotten(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "WATCH_S", 0.3)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.8)  # the server closes watches in between
            api.drop_connections()
            time.sleep(0.3)
            api.forget_history()
            time.sleep(0.3)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)

    assert api.num_requests(f"GET .*{JOBS}.*watch=true") >= 4


def test_what_happened_since_a_version_that_is_too_old_is_seen_by_listing_again(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "WATCH_S", 0.3)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.5)
            # every watch from now on: only a list can tell
            api.faults = [Fault("GET", "watch=true", status=410, times=10_000)]
            time.sleep(0.5)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)


def test_a_connection_that_went_silent_is_given_up(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "READ_TIMEOUT_S", 0.4)
    api.faults = [Fault("GET", "watch=true", silent_s=60, times=3)]
    trains(api)

    launch(backend(), SPEC)


# -------------------------------------------------------------- row 18


def test_an_api_server_in_trouble_is_waited_for_and_the_job_left_alone(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.3)
            api.faults = [
                Fault("GET", ".", status=500, times=8),
                Fault("GET", ".", status=429, headers={"Retry-After": "1"}, times=4),
            ]
            api.drop_connections()
            time.sleep(2)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)

    assert api.num_requests("DELETE") == 0


def test_retry_after_is_respected() -> None:
    from rlvr_components.jobs.kube.errors import Outage

    asked = Outage("busy", status=429, retry_after_s=7.0)

    assert client.wanted_delay(asked, 0.5) == 7.0
    assert client.wanted_delay(Outage("busy"), 0.5) == 0.5


def test_an_api_server_that_stays_away_is_an_error_and_the_job_goes_on(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OUTAGE_S", 0.5)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def leave() -> None:
            api.faults = [Fault("GET", ".", status=503, times=10_000)]
            api.drop_connections()

        later(leave)

    api.on_create = on_create

    with pytest.raises(PlatformError, match="runs on, start the same again") as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 138
    assert "(503: told to fail)" in str(caught.value)
    assert len(api.jobs()) == 1


def test_a_login_that_expired_is_what_is_told_in_the_end(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OUTAGE_S", 0.5)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def expire() -> None:
            api.token = "another"
            api.drop_connections()

        later(expire)

    api.on_create = on_create

    with pytest.raises(PlatformError, match=r"does not accept the credentials \(401\); log in"):
        launch(backend(), SPEC)


# -------------------------------------------------------------- row 19


def test_a_token_that_was_replaced_is_read_again(api: FakeApiServer, tmp_path: Path) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def rotate() -> None:
            api.token = "second"
            (tmp_path / "token").write_text("second")
            api.drop_connections()
            succeed(api, job)

        later(rotate)

    api.on_create = on_create

    launch(backend(), SPEC)


def test_credentials_that_nobody_accepts_are_an_error(api: FakeApiServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("no such token")

    with pytest.raises(ConfigError, match=r"does not accept the credentials \(401\); log in again"):
        launch(backend(), SPEC)


# ---------------------------------------------------------- row 20, attempts


def live_job(api: FakeApiServer, attempt: int = 1, spec: Any = SPEC, **status: Any) -> Object:
    rendered = backend().render(replace(spec, attempt=attempt))
    return api.put("pytorchjobs", {**rendered, "status": status})


def failed_job(api: FakeApiServer, exit_code: int, attempt: int = 1, spec: Any = SPEC) -> Object:
    job = live_job(api, attempt, spec, conditions=[FAILED])
    state = terminated(exit_code, message=said(f"ended with {exit_code}", exit_code))
    run_pods(api, job, "master-0", phase="Failed", state=state)
    return job


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


def test_after_a_failure_that_may_pass_the_next_attempt_is_made(
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
    assert "worker-0: a rank was killed; another attempt is made" in capfd.readouterr().out


def test_the_budget_of_attempts_ends(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        state = terminated(138, message=said("a rank was killed", 138))
        later(lambda: fail(api, job, "worker-0", state), 0.1)

    api.on_create = on_create

    with pytest.raises(JobFailed, match=r"2 jobs \(max_attempts 2\) failed; the last:") as caught:
        launch(backend(max_attempts=2), SPEC)

    assert caught.value.exit_code == 9
    assert len(api.jobs()) == 2


def test_within_a_pipeline_run_a_permanent_failure_stays_one(api: FakeApiServer) -> None:
    spec = replace(SPEC, run_id="run-1", is_automatic=True)
    failed_job(api, 3, spec=spec)

    with pytest.raises(JobFailed, match="ended with 3") as caught:
        launch(backend(), spec)

    assert caught.value.exit_code == 3
    assert len(api.jobs()) == 1


def test_within_a_pipeline_run_a_passing_failure_is_tried_again(api: FakeApiServer) -> None:
    spec = replace(SPEC, run_id="run-1", is_automatic=True)
    failed_job(api, 143, spec=spec)
    trains(api)

    launch(backend(), spec)

    assert len(api.jobs()) == 2


def test_memory_that_ran_out_twice_is_permanent(api: FakeApiServer) -> None:
    spec = replace(SPEC, run_id="run-1", is_automatic=True)
    failed_job(api, 137, 1, spec)
    failed_job(api, 137, 2, spec)

    with pytest.raises(JobFailed, match="for the second time") as caught:
        launch(backend(), spec)

    assert caught.value.exit_code == 9


@pytest.mark.parametrize("run_id", ["", "mine-0123456789ab"])
def test_who_starts_a_failed_job_again_gets_another_attempt(
    api: FakeApiServer, run_id: str
) -> None:
    spec = replace(SPEC, run_id=run_id)
    failed_job(api, 3, spec=spec)
    trains(api)

    launch(backend(), spec)

    assert len(api.jobs()) == 2


# ---------------------------------------- ends of jobs that are deleted thereby


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
    """A job of a step that Kubeflow tries again."""
    return replace(SPEC, run_id="run-1", is_automatic=True, run_dir=str(run_dir))


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
def test_within_a_pipeline_run_an_end_by_deletion_stays_one(
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


def test_the_end_is_kept_before_the_job_is_deleted(api: FakeApiServer, tmp_path: Path) -> None:
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


def test_a_job_that_is_still_there_says_more_than_what_was_kept(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path)
    job = live_job(api, spec=spec)
    keep_end(job, JobStatus("failed", 138, "not all replicas ran within queue_timeout_s"))
    run_pods(api, job)
    later(lambda: succeed(api, job))

    launch(backend(), spec)

    assert api.num_requests(f"POST .*{JOBS}") == 0


def test_a_storage_that_takes_nothing_leaves_no_gpus_busy(
    api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def on_create(job: Object) -> None:
        (tmp_path / "jobs").write_text("in the way of the folder")
        run_pods(api, job)

    api.on_create = on_create

    with pytest.raises(JobFailed, match="run_timeout_s"):
        launch(backend(run_timeout_s=1), retried(tmp_path))

    assert not api.jobs()
    assert "a retry will start this job once more" in caplog.text


def test_a_kept_end_that_is_damaged_is_not_taken_for_none(
    api: FakeApiServer, tmp_path: Path
) -> None:
    spec = retried(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / f"{spec.name_of_all_attempts}.json").write_text('{"attempt": 1')

    with pytest.raises(ConfigError, match=r"is damaged .* remove it"):
        launch(backend(), spec)

    assert not api.jobs()


def test_a_person_who_starts_it_again_gets_another_attempt(
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


def test_a_signal_is_no_deletion_by_somebody_else(api: FakeApiServer, tmp_path: Path) -> None:
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


def test_nor_is_one_in_the_middle_of_a_look(
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
    assert not (tmp_path / "jobs").exists()


# -------------------------------------------------------------- row 21


def test_a_job_that_somebody_deletes_is_no_success_and_no_wait(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        later(lambda: api.remove("pytorchjobs", job["metadata"]["name"]))

    api.on_create = on_create

    with pytest.raises(JobFailed, match="deleted by someone else") as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 7
    assert not api.jobs()


def test_a_job_that_took_its_name_is_left_alone(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def replace_it() -> None:
            api.remove("pytorchjobs", job["metadata"]["name"])
            fresh = {**job, "metadata": {**job["metadata"], "uid": "another"}}
            api.put("pytorchjobs", fresh)

        later(replace_it)

    api.on_create = on_create

    with pytest.raises(JobFailed, match="deleted by someone else"):
        launch(backend(), SPEC)

    assert [job["metadata"]["uid"] for job in api.jobs()] == ["another"]


# ---------------------------------------------------------- row 22 to 25


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (waiting("ImagePullBackOff", "no such image"), "ImagePullBackOff: no such image"),
        (waiting("InvalidImageName", "A:B:C"), "InvalidImageName: A:B:C"),
        (waiting("CreateContainerConfigError", 'secret "s" not found'), 'secret "s" not found'),
    ],
)
def test_what_hardly_passes_fails_after_a_while_and_the_job_is_deleted(
    api: FakeApiServer, state: Object, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    api.on_create = lambda job: run_pods(api, job, phase="Pending", state=state)
    started = time.monotonic()

    with pytest.raises(JobFailed, match=cause) as caught:
        launch(backend(start_grace_s=1), SPEC)

    assert caught.value.exit_code == 2
    assert 1 <= time.monotonic() - started < 5
    assert not api.jobs()
    told = [line for line in capfd.readouterr().out.splitlines() if cause in line]
    assert "pending: master-0" in told[0], "told before it fails"
    assert told[-1].endswith("the job is deleted")


def test_what_passes_within_the_grace_is_no_failure(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job, phase="Pending", state=waiting("ErrImagePull", "registry is away"))
        later(lambda: run_pods(api, job), 0.5)
        later(lambda: succeed(api, job), 1.0)

    api.on_create = on_create

    launch(backend(start_grace_s=2), SPEC)


def test_a_second_time_out_of_memory_ends_a_job_that_its_operator_starts_for_ever(
    api: FakeApiServer,
) -> None:
    def on_create(job: Object) -> None:
        def course() -> None:
            for _ in range(3):
                run_pods(api, job)
                time.sleep(0.3)
                end_pod(
                    api,
                    f"{job['metadata']['name']}-worker-0",
                    terminated(137, reason="OOMKilled"),
                )
                time.sleep(0.3)
                api.remove("pods", f"{job['metadata']['name']}-worker-0")

        threading.Thread(target=course).start()

    api.on_create = on_create

    with pytest.raises(
        JobFailed, match=r"for the second time worker-0: out of memory.*40Gi"
    ) as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 9
    assert not api.jobs()


def test_a_container_that_cannot_start_ends_a_job_that_its_operator_starts_for_ever(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "PERMANENT_S", 0.3)
    never = terminated(128, reason="StartError", message="no such program")
    api.on_create = lambda job: run_pods(api, job, phase="Failed", state=never)

    with pytest.raises(JobFailed, match="the container cannot start: no such program") as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 2
    assert not api.jobs()


def test_the_queue_has_a_limit_of_its_own(api: FakeApiServer) -> None:
    says = condition("PodScheduled", "0/1 nodes are available", "False", reason="Unschedulable")
    api.on_create = lambda job: run_pods(api, job, phase="Pending", conditions=[says])

    with pytest.raises(
        JobFailed, match=r"queue_timeout_s \(2 s\): master-0: Unschedulable: 0/1 nodes"
    ) as caught:
        launch(backend(queue_timeout_s=2), SPEC)

    assert caught.value.exit_code == 138
    assert not api.jobs()


def test_running_has_a_limit_of_its_own(api: FakeApiServer) -> None:
    api.on_create = lambda job: run_pods(api, job)

    with pytest.raises(JobFailed, match=r"run_timeout_s \(1 s\)") as caught:
        launch(backend(run_timeout_s=1), SPEC)

    assert caught.value.exit_code == 7
    assert not api.jobs()


def test_a_quota_is_told_from_the_jobs_events(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def on_create(job: Object) -> None:
        name = job["metadata"]["name"]
        api.put("events", event("FailedCreatePod", "exceeded quota: gpus", "PyTorchJob", name))
        later(lambda: run_pods(api, job), 0.5)
        later(lambda: succeed(api, job), 1.0)

    api.on_create = on_create

    launch(backend(), SPEC)

    assert "pending: quota: exceeded quota: gpus" in capfd.readouterr().out


def test_what_was_said_of_an_earlier_job_of_its_name_is_past(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    said_before = event("FailedCreatePod", "no such service account", "PyTorchJob", SPEC.name)
    said_before["lastTimestamp"] = "2020-01-01T03:01:00Z"
    said_before["metadata"]["creationTimestamp"] = "2020-01-01T03:00:00Z"
    api.put("events", said_before)
    said_of_another = event("FailedCreatePod", "of another", "PyTorchJob", SPEC.name)
    said_of_another["lastTimestamp"] = "2999-01-01T00:00:00Z"
    said_of_another["involvedObject"]["uid"] = "the uid of an earlier job"
    api.put("events", said_of_another)

    def on_create(job: Object) -> None:
        later(lambda: run_pods(api, job), 1.5)
        later(lambda: succeed(api, job), 2.0)

    api.on_create = on_create

    launch(backend(start_grace_s=1), SPEC)

    told = capfd.readouterr().out
    assert "pending: waits for the operator to make 2 pods" in told
    assert "refuses" not in told


def test_a_lost_node_is_tried_again_by_its_operator_and_told(
    api: FakeApiServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.3)
            name = f"{job['metadata']['name']}-worker-0"
            lost = api.objects["pods", name]
            api.put("pods", {**lost, "status": {"phase": "Failed", "reason": "NodeLost"}})
            time.sleep(0.3)
            api.remove("pods", name)
            run_pods(api, job, "worker-0")
            time.sleep(0.3)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)

    assert "worker-0: its node node-a was lost (exit code 138)" in capfd.readouterr().out


# ------------------------------------------------------------ permissions


def test_a_missing_verb_is_told_before_anything_is_created(api: FakeApiServer) -> None:
    api.forbidden = {("get", "pods/log"), ("delete", "pytorchjobs")}

    with pytest.raises(
        ConfigError, match=r"may not delete pytorchjobs, get pods/log in rlvr; bind the Role"
    ):
        launch(backend(), SPEC)

    assert not api.jobs()


def test_a_refusal_names_user_verb_and_role(api: FakeApiServer) -> None:
    api.forbidden = {("create", "pytorchjobs")}
    launcher = backend()

    with pytest.raises(
        ConfigError,
        match=r"launcher may not create pytorchjobs in rlvr; bind the Role rlvr-launcher",
    ):
        launcher.submit(launcher.render(SPEC))


def test_a_cluster_without_the_kind_says_what_to_install(api: FakeApiServer) -> None:
    api.kinds = ("pods", "events")

    with pytest.raises(
        ConfigError, match=r"knows no PyTorchJob .* install the Kubeflow training op"
    ):
        launch(backend(), SPEC)
    with pytest.raises(ConfigError, match="knows no PyTorchJob and no TrainJob; install"):
        find_jobs()


def test_what_admission_says_reaches_the_user(api: FakeApiServer) -> None:
    says = "ValidatingAdmissionPolicy 'rlvr-pytorchjobs' denied request: the image has no digest"
    api.faults = [Fault("POST", JOBS, status=422, message=says)]

    with pytest.raises(ConfigError, match=r"refuses to create pytorchjobs in rlvr: .* no digest"):
        launch(backend(), SPEC)


def test_a_server_that_is_not_there_is_a_platform_error(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ASK_PATIENCE_S", 0.1)
    config = (tmp_path / "kubeconfig").read_text().replace(api.url, "http://127.0.0.1:9")
    (tmp_path / "kubeconfig").write_text(config)

    with pytest.raises(
        PlatformError, match=r"http://127.0.0.1:9 cannot be reached .* check context"
    ):
        find_jobs()


def test_a_pod_that_cleans_up_waits_for_an_api_server_that_is_restarted(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ASK_PATIENCE_S", 0.1)
    live_job(api)
    of_person = find_access()

    def restart(method: str) -> None:
        api.faults = [Fault(method, ".", status=503, times=10_000)]
        later(api.faults.clear, 0.5)

    restart("GET")
    with pytest.raises(PlatformError, match="503"):
        find_jobs()

    monkeypatch.setattr(cluster, "find_access", lambda _: replace(of_person, is_of_pod=True))
    restart("GET")
    found = find_jobs()
    restart("DELETE")
    delete_jobs(found)

    assert not api.jobs()


# --------------------------------------------------------------- signals


def stopping(api: FakeApiServer) -> JobFailed:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(JobFailed) as caught:
        launch(backend(), SPEC)
    assert {each: signal.getsignal(each) for each in before} == before
    return caught.value


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_deletes_the_job_first_and_at_once(
    api: FakeApiServer, number: signal.Signals
) -> None:
    told: list[float] = []
    deleted: list[float] = []

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def tell() -> None:
            told.append(time.monotonic())
            os.kill(os.getpid(), number)

        later(tell)

    api.on_create = on_create
    api.on_delete = lambda job: deleted.append(time.monotonic())

    error = stopping(api)

    assert error.exit_code == 143
    assert not api.jobs()
    assert deleted[0] - told[0] < 0.5
    assert api.num_requests("DELETE") == 1


def test_a_signal_while_the_job_is_created_leaves_none(api: FakeApiServer) -> None:
    api.faults = [Fault("POST", JOBS, delay_s=0.6)]

    def tell() -> None:
        while not api.num_requests(f"POST .*{JOBS}"):
            time.sleep(0.005)
        time.sleep(0.2)  # the create is on its way, and done only after the signal
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()

    error = stopping(api)

    assert error.exit_code == 143
    assert not api.jobs()


def test_a_signal_after_a_job_was_adopted_is_for_it(api: FakeApiServer) -> None:
    live_job(api)
    chosen = backend()
    chosen.next_attempt(SPEC)

    chosen.stop("")

    assert not api.jobs()


def test_a_signal_while_the_create_is_tried_again_ends_that(api: FakeApiServer) -> None:
    api.faults = [Fault("POST", JOBS, status=503, times=10_000)]
    later(lambda: os.kill(os.getpid(), signal.SIGTERM))

    error = stopping(api)

    assert error.exit_code == 143
    assert not api.jobs()


def test_a_delete_that_fails_is_tried_again(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        api.faults = [Fault("DELETE", JOBS, status=503, times=2)]
        later(lambda: os.kill(os.getpid(), signal.SIGTERM))

    api.on_create = on_create

    stopping(api)

    assert not api.jobs()
    assert api.num_requests("DELETE") == 3


def test_stop_from_elsewhere_deletes_and_is_no_error_twice(api: FakeApiServer) -> None:
    job = live_job(api)

    backend().stop(job["metadata"]["name"])
    backend().stop(job["metadata"]["name"])

    assert not api.jobs()


# ------------------------------------------------------ lists, logs, progress


def test_jobs_are_listed_the_newest_first_with_progress_and_cause(api: FakeApiServer) -> None:
    old = failed_job(api, 3)
    old["metadata"]["creationTimestamp"] = "2026-11-24T03:00:00Z"
    api.put("pytorchjobs", old)
    new = live_job(api, 2)
    new["metadata"]["annotations"] |= {"rlvr.dev/step": "12/100", "rlvr.dev/reward": "0.610"}
    api.put("pytorchjobs", new)
    run_pods(api, new)

    second, first = find_jobs(run="tiny")

    assert (second.attempt, second.phase, second.progress_step) == (2, "running", "12/100")
    assert (second.run, second.step, second.reward) == ("tiny", "train", "0.610")
    assert [each.name for each in second.replicas] == ["master-0", "worker-0"]
    assert (first.phase, first.exit_code, first.cause) == ("failed", 3, "master-0: ended with 3")
    assert first.age_s > second.age_s


def test_jobs_are_found_by_run_id_and_name(api: FakeApiServer) -> None:
    live_job(api)
    other = live_job(api, spec=replace(SPEC, run_id="run-1"))

    assert [each.name for each in find_jobs(run_id="run-1")] == [other["metadata"]["name"]]
    assert [each.name for each in find_jobs(job=SPEC.name)] == [SPEC.name]
    assert find_jobs(run="another") == []


def test_status_takes_a_few_requests_and_little_time(api: FakeApiServer) -> None:
    for attempt in range(1, 11):
        run_pods(api, live_job(api, attempt), *(f"worker-{index}" for index in range(16)))
    api.requests.clear()
    started = time.monotonic()

    jobs = find_jobs()

    assert time.monotonic() - started < 1
    assert len(jobs) == 10
    assert len(api.requests) <= 5


def test_a_list_of_several_pages_is_read_to_its_end(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 3)
    for attempt in range(1, 9):
        live_job(api, attempt)

    assert len(find_jobs()) == 8


def test_cleaning_deletes_jobs_and_says_which(api: FakeApiServer) -> None:
    failed_job(api, 3)
    found = find_jobs()

    assert [each.name for each in delete_jobs(found)] == [SPEC.name]
    assert delete_jobs(found) == []
    assert not api.jobs()


def test_the_lines_so_far_are_in_the_order_of_their_time(api: FakeApiServer) -> None:
    job = live_job(api)
    run_pods(api, job)
    for second, replica, line in ((2, "worker-0", "b"), (1, "master-0", "a"), (3, "master-0", "c")):
        api.log(f"{SPEC.name}-{replica}", line, time=f"2026-11-25T03:00:0{second}.000000000Z")

    lines = list(backend().logs(SPEC.name, follow=False))

    assert lines == ["[master-0] a", "[worker-0] b", "[master-0] c"]


def test_who_only_looks_on_changes_nothing(api: FakeApiServer) -> None:
    job = live_job(api)
    run_pods(api, job, phase="Pending", state=waiting("InvalidImageName", "A:B:C"))
    later(lambda: fail(api, job, "worker-0", terminated(3, message=said("no rows", 3))), 1.5)
    onlooker = backend(start_grace_s=1, queue_timeout_s=1)

    lines = list(onlooker.logs(SPEC.name))

    assert onlooker.status(SPEC.name).cause == "worker-0: no rows"
    assert any("InvalidImageName" in each for each in lines)
    assert api.num_requests("PATCH|DELETE") == 0


def test_a_job_that_is_not_there_is_told(api: FakeApiServer) -> None:
    with pytest.raises(
        ConfigError, match=r"no PyTorchJob 'other' in namespace rlvr; `rlvr status`"
    ):
        backend().status("other")


def test_progress_goes_from_the_run_directory_to_annotations_and_to_whoever_asks(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        '{"time": 1, "event": "phase", "phase": "train", "state": "started"}\n'
        '{"time": 2, "event": "step", "step": 3, "max_steps": 20, "reward": 0.6125}\n'
        '{"time": 3, "event": "step", "st'
    )
    seen: list[Any] = []
    trains(api)

    launch(
        open_backend("pytorchjob", PLATFORM, on_event=seen.append),
        replace(SPEC, run_dir=str(run)),
    )

    [job] = api.jobs()
    annotations = job["metadata"]["annotations"]
    assert annotations["rlvr.dev/step"] == "3/20"
    assert annotations["rlvr.dev/reward"] == "0.613" or annotations["rlvr.dev/reward"] == "0.612"
    assert annotations["rlvr.dev/phase"] == "train"
    assert [each["event"] for each in seen] == ["phase", "step"]


def test_the_columns_for_kubectl_name_the_annotations() -> None:
    for each in (r"rlvr\.dev/step", r"rlvr\.dev/reward", r"rlvr\.dev/phase"):
        assert f".metadata.annotations.{each}" in CUSTOM_COLUMNS


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
