"""Launches on our fake of SageMaker, whose hosts run short programs as real processes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.fakes.fake_sagemaker import FakeSageMaker

from rlvr_components.jobs.launching import launch
from rlvr_components.sagemaker import job_state
from rlvr_components.sagemaker.aws_errors import explain
from rlvr_components.sagemaker.job_state import explain_failure
from rlvr_components.sagemaker.sagemaker_backend import SageMakerBackend
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_trainer.errors import ConfigError, JobFailed, PlatformError

from .launches import SETTINGS, UNTIL_TERMINATED, backend_of, failing, program, spec_of


def sent(sagemaker: FakeSageMaker, operation: str) -> list[dict[str, Any]]:
    return [request for name, request in sagemaker.calls if name == operation]


def run(sagemaker: FakeSageMaker, storage: str, **changes: Any) -> str:
    """Launch a training and return the job's name."""
    settings = SageMaker.model_validate({**SETTINGS, **changes})
    spec = spec_of(storage, settings)
    launch(backend_of(**changes), spec)
    return spec.name


def test_a_job_is_followed_to_its_success(
    sagemaker: FakeSageMaker, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.command = program("print('step 1/2'); print('step 2/2')")
    name = run(sagemaker, s3, instance_count=2)
    assert sagemaker.jobs[name].status == "Completed"
    out = capsys.readouterr().out
    for rank in (1, 2):
        own = [line for line in out.splitlines() if line.startswith(f"[algo-{rank}]")]
        assert own == [f"[algo-{rank}] step 1/2", f"[algo-{rank}] step 2/2"]
    assert f"[{name}] Downloading: Downloading the training image" in out
    assert f"[{name}] billed 1 s on 2 x ml.g6e.48xlarge, $0.02 by the list prices of" in out


def test_the_rendered_request_is_what_is_sent(sagemaker: FakeSageMaker, s3: str) -> None:
    sagemaker.command = program("")
    backend = backend_of()
    spec = backend.next_attempt(spec_of(s3, SageMaker.model_validate(SETTINGS)))
    rendered = backend.render(spec)
    backend.submit(rendered)
    assert sent(sagemaker, "CreateTrainingJob") == [rendered]


def test_a_live_job_is_adopted_and_so_is_a_completed_one(sagemaker: FakeSageMaker, s3: str) -> None:
    sagemaker.command = program("import time; print('one'); time.sleep(0.5); print('two')")
    spec = spec_of(s3, SageMaker.model_validate(SETTINGS))
    first = backend_of()
    first.submit(first.render(first.next_attempt(spec)))
    for _ in range(2):
        other = backend_of()
        name = other.submit(other.render(other.next_attempt(spec)))
        lines = [line for line in other.logs(name) if line.startswith("[algo-1]")]
        assert lines == ["[algo-1] one", "[algo-1] two"]
        assert other.status(name).phase == "succeeded"
    assert len(sent(sagemaker, "CreateTrainingJob")) == 1


def test_a_job_of_the_name_with_another_spec_is_refused(sagemaker: FakeSageMaker, s3: str) -> None:
    sagemaker.command = program(UNTIL_TERMINATED)
    spec = spec_of(s3, SageMaker.model_validate(SETTINGS))
    first, other = backend_of(), backend_of(volume_gib=200)
    first.submit(first.render(first.next_attempt(spec)))
    with pytest.raises(ConfigError, match=r"exists with another spec \(hash .*rlvr stop"):
        other.submit(other.render(other.next_attempt(spec)))
    # and where the list does not show it yet
    with pytest.raises(ConfigError, match="exists with another spec"):
        backend_of(volume_gib=200).submit(other.render(spec))


@pytest.mark.parametrize("fault", ["lost", "error"])
def test_a_request_that_was_accepted_without_an_answer_finds_its_job(
    sagemaker: FakeSageMaker, s3: str, fault: str
) -> None:
    sagemaker.command = program("print('only once')")
    sagemaker.lose_answer("CreateTrainingJob")
    if fault == "error":
        sagemaker.refuse("CreateTrainingJob", "InternalFailure", status=500)
    name = run(sagemaker, s3)
    assert len(sagemaker.jobs) == 1
    assert len(sent(sagemaker, "CreateTrainingJob")) >= 2
    assert sagemaker.jobs[name].status == "Completed"


def test_throttling_and_server_errors_are_waited_out(
    sagemaker: FakeSageMaker, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.command = program("print('one')")
    sagemaker.refuse("ListTrainingJobs", "ThrottlingException")
    sagemaker.refuse("DescribeTrainingJob", "ServiceUnavailable", status=503)
    sagemaker.refuse("CreateTrainingJob", "ThrottlingException")
    run(sagemaker, s3)
    assert capsys.readouterr().out.count("[algo-1] one") == 1


def test_lines_of_several_pages_and_late_streams_come_once_each(
    sagemaker: FakeSageMaker, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.late_log_s = 0.02
    sagemaker.command = program("for i in range(20): print('line', i)")
    run(sagemaker, s3, instance_count=2)
    out = capsys.readouterr().out.splitlines()
    for rank in (1, 2):
        own = [line for line in out if line.startswith(f"[algo-{rank}]")]
        assert own == [f"[algo-{rank}] line {i}" for i in range(20)]


@pytest.mark.parametrize(
    ("reason", "cause", "code", "is_retried"),
    [
        (
            "AlgorithmError: [6] step 12: the loss was not finite\n, exit code: 6",
            "the loss was not finite (after step 12)",
            6,
            False,
        ),
        (
            "AlgorithmError: [138] step 3: the disk is full, exit code: 138",
            "disk is full",
            138,
            True,
        ),
        (
            "AlgorithmError: [143] step 3: stopped by a signal after a commit, exit code: 143",
            "stopped by a signal",
            143,
            True,
        ),
        (
            "AlgorithmError: [143] step 3: stopped by the maximal run time of 600 s after a commit",
            "the maximal run time of 600 s",
            143,
            False,
        ),
        ("AlgorithmError: , exit code: 137", "out of memory", 137, True),
        ("AlgorithmError: , exit code: 139", "killed by SIGSEGV", 138, True),
        ("AlgorithmError: , exit code: 1", "exited with code 1 and wrote no cause", 1, False),
        ("InternalServerError: We encountered an internal error.", "SageMaker failed", 138, True),
        ("CapacityError: Unable to provision", "no capacity: Unable to provision", 138, False),
        ("ClientError: No space left on device", "raise volume_gib", 2, False),
        ("ClientError: Cannot pull the image", "push the trainer's image to ECR", 2, False),
        ("ClientError: Access denied to S3", "grant role_arn the storage", 2, False),
        ("Something new", "Something new", 7, False),
        ("", "SageMaker tells no cause", 7, False),
    ],
)
def test_a_failure_reason_becomes_a_cause_and_an_exit_code(
    reason: str, cause: str, code: int, is_retried: bool
) -> None:
    explained, exit_code, retried = explain_failure(reason)
    assert cause in explained
    assert (exit_code, retried) == (code, is_retried)


def test_the_failure_file_is_the_cause(sagemaker: FakeSageMaker, s3: str) -> None:
    sagemaker.command = failing(3, "[3] step 0: train.jsonl is empty\nmore")
    with pytest.raises(JobFailed, match=r"train.jsonl is empty more \(after step 0\)") as caught:
        run(sagemaker, s3)
    assert caught.value.exit_code == 3
    assert len(sagemaker.jobs) == 1  # a permanent failure is not repeated


def test_a_passing_failure_is_another_attempt_within_the_budget(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = failing(138, "[138] step 0: the disk failed")
    with pytest.raises(JobFailed, match="the disk failed"):
        run(sagemaker, s3, max_attempts=2)
    assert [name[-2:] for name in sagemaker.jobs] == ["-1", "-2"]


def test_a_user_gets_another_attempt_and_an_automatic_launch_does_not(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = failing(3, "[3] step 0: no rows")
    settings = SageMaker.model_validate(SETTINGS)
    for automatic, jobs in ((False, 1), (True, 1), (False, 2)):
        with pytest.raises(JobFailed, match="no rows"):
            launch(backend_of(), spec_of(s3, settings, is_automatic=automatic))
        assert len(sagemaker.jobs) == jobs


def test_the_maximal_run_time_is_not_a_success_and_the_next_launch_continues(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command, sagemaker.max_runtime_s = program(UNTIL_TERMINATED), 0.3
    with pytest.raises(JobFailed, match=r"stopped after max_runtime_s \(86400 s\)") as caught:
        run(sagemaker, s3)
    assert caught.value.exit_code == 143
    assert len(sagemaker.jobs) == 1  # the limit is also a limit of the cost
    sagemaker.command = program("print('continues')")
    settings = SageMaker.model_validate(SETTINGS)
    launch(backend_of(), spec_of(s3, settings, is_automatic=True))
    assert [job.status for job in sagemaker.jobs.values()] == ["Stopped", "Completed"]


def test_an_interrupted_spot_job_continues_by_itself(
    sagemaker: FakeSageMaker, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.command = program(UNTIL_TERMINATED)
    settings = {"spot": True, "max_wait_s": 90_000}
    spec = spec_of(s3, SageMaker.model_validate({**SETTINGS, **settings}))

    def interrupt() -> None:
        sagemaker.wait(spec.name, "Training")
        time.sleep(0.3)
        sagemaker.command = program("print('resumed')")
        sagemaker.interrupt(spec.name)

    threading.Thread(target=interrupt).start()
    launch(backend_of(**settings), spec)
    out = capsys.readouterr().out
    assert "Interrupted: Training job interrupted" in out
    assert "Restarting: " in out
    assert out.index("[algo-1] committed") < out.index("[algo-1] resumed")


@pytest.mark.parametrize(
    ("secondary", "message", "code"),
    [
        ("MaxWaitTimeExceeded", "max_wait_s", 143),
        ("Interrupted", "spot instances were taken back", 143),
        ("Stopped", "stopped by someone else", 7),
        ("SomethingNew", "stopped by someone else", 7),
    ],
)
def test_a_stopped_job_is_never_a_success(secondary: str, message: str, code: int) -> None:
    described = {"TrainingJobStatus": "Stopped", "SecondaryStatus": secondary}
    status = job_state.status_of(described)
    assert status.phase == "failed"
    assert status.exit_code == code
    assert message in status.cause
    assert status.is_retried == (secondary == "Interrupted")


def test_a_job_that_waited_in_vain_for_capacity_is_told_from_one_that_was_stopped() -> None:
    waited = {"Status": "Stopped", "StatusMessage": "The job was pending for too long"}
    described = {
        "TrainingJobStatus": "Stopped",
        "SecondaryStatus": "Stopped",
        "StoppingCondition": {"MaxPendingTimeInSeconds": 7200},
        "SecondaryStatusTransitions": [waited],
    }
    status = job_state.status_of(described)
    assert status.exit_code == 138
    assert "no capacity within max_pending_s (7200 s)" in status.cause
    assert not status.is_retried


def test_an_unknown_status_is_passed_through() -> None:
    listed = [{"Status": "Rebalancing", "StatusMessage": "Moving\nhosts"}]
    described = {
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Rebalancing",
        "SecondaryStatusTransitions": listed,
    }
    status = job_state.status_of(described)
    assert (status.phase, status.cause) == ("running", "Rebalancing: Moving hosts")
    assert job_state.transitions(described) == ["Rebalancing: Moving hosts"]


def test_the_first_preferred_type_with_capacity_is_used(
    sagemaker: FakeSageMaker, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.command = program("")
    sagemaker.without_capacity = {"ml.p5.48xlarge"}
    run(
        sagemaker,
        s3,
        instance_type="",
        instance_preferences=("ml.p5.48xlarge", "ml.g6e.48xlarge"),
        max_pending_s=1800,
    )
    assert "billed 1 s on 1 x ml.g6e.48xlarge" in capsys.readouterr().out


def test_capacity_that_never_comes_is_reported_and_not_waited_for_again(
    sagemaker: FakeSageMaker, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.without_capacity = {"ml.g6e.48xlarge"}
    with pytest.raises(JobFailed, match=r"no capacity: .* name more types") as caught:
        run(sagemaker, s3, max_pending_s=1800)
    assert caught.value.exit_code == 138
    assert "Pending: Insufficient capacity" in capsys.readouterr().out
    assert len(sagemaker.jobs) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_job_within_seconds(
    sagemaker: FakeSageMaker, s3: str, number: signal.Signals
) -> None:
    sagemaker.command = program(UNTIL_TERMINATED)
    spec = spec_of(s3, SageMaker.model_validate(SETTINGS))

    def interrupt() -> None:
        sagemaker.wait(spec.name, "Training")
        time.sleep(0.2)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    started = time.monotonic()
    with pytest.raises(JobFailed, match="commits within two minutes") as caught:
        launch(backend_of(), spec)
    assert caught.value.exit_code == 143
    assert time.monotonic() - started < 10
    sagemaker.wait(spec.name, "Stopped")


def test_stopping_twice_and_stopping_what_has_ended_is_no_error(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = program(UNTIL_TERMINATED)
    backend = backend_of()
    spec = backend.next_attempt(spec_of(s3, SageMaker.model_validate(SETTINGS)))
    name = backend.submit(backend.render(spec))
    sagemaker.wait(name, "Training")
    backend.stop(name)
    backend.stop(name)
    sagemaker.wait(name, "Stopped")
    backend.stop(name)
    backend.stop("rlvr-never-started")


def test_an_earlier_launchs_job_is_stopped_before_a_new_one_is_chosen(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = program(UNTIL_TERMINATED)
    spec = spec_of(s3, SageMaker.model_validate(SETTINGS))
    first = backend_of()
    name = first.submit(first.render(first.next_attempt(spec)))
    sagemaker.wait(name, "Training")
    backend_of().stop_earlier(spec)
    sagemaker.wait(name, "Stopped")


def test_a_warm_pool_is_used_by_the_next_job_and_released_after_a_failure(
    sagemaker: FakeSageMaker, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker.command = program("")
    settings = SageMaker.model_validate({**SETTINGS, "keep_alive_s": 600})
    base = spec_of(s3, settings, step="evaluate-base")
    launch(backend_of(keep_alive_s=600), base)
    assert sagemaker.jobs[base.name].warm_pool == "Available"
    sagemaker.command = failing(3, "[3] step 0: no rows")
    with pytest.raises(JobFailed):
        launch(backend_of(keep_alive_s=600), spec_of(s3, settings))
    assert sagemaker.jobs[base.name].warm_pool == "Reused"
    assert [job.warm_pool for job in sagemaker.jobs.values()] == ["Reused", "Terminated"]
    assert "the warm pool is released" in capsys.readouterr().out


def test_a_job_that_is_deleted_meanwhile_is_reported(sagemaker: FakeSageMaker, s3: str) -> None:
    sagemaker.command = program(UNTIL_TERMINATED)
    backend = backend_of()
    spec = backend.next_attempt(spec_of(s3, SageMaker.model_validate(SETTINGS)))
    name = backend.submit(backend.render(spec))
    job = sagemaker.wait(name, "Training")
    del sagemaker.jobs[name]
    assert list(backend.logs(name)) == []
    assert "deleted by someone else" in backend.status(name).cause
    sagemaker.jobs[name] = job  # for the fake to end its process


@pytest.mark.parametrize(
    ("code", "message", "expected", "kind"),
    [
        (
            "ExpiredTokenException",
            "expired",
            "credentials have expired .* finds its job",
            "passing",
        ),
        ("UnrecognizedClientException", "invalid", "credentials are not valid", "permanent"),
        (
            "AccessDeniedException",
            "User: u is not authorized to perform: sagemaker:AddTags on resource: r",
            "grant this identity sagemaker:AddTags",
            "permanent",
        ),
        (
            "AccessDeniedException",
            "User: u is not authorized to perform: iam:PassRole on resource: r",
            "may not pass role_arn",
            "permanent",
        ),
        (
            "ValidationException",
            "Could not assume role arn:aws:iam::1:role/x",
            "let role_arn trust sagemaker.amazonaws.com",
            "permanent",
        ),
        (
            "ValidationException",
            "The bucket is in another region",
            "use a bucket and an image of the jobs' region",
            "permanent",
        ),
        (
            "ValidationException",
            "Instance type ml.p5.48xlarge is not supported",
            "choose another instance_type",
            "permanent",
        ),
        (
            "ValidationException",
            "The repository does not exist",
            "push the trainer's image to ECR",
            "permanent",
        ),
    ],
)
def test_a_refused_request_says_what_to_do(
    code: str, message: str, expected: str, kind: str
) -> None:
    answer = {"Error": {"Code": code, "Message": message}}
    refused = ClientError(answer, "CreateTrainingJob")  # type: ignore[arg-type]
    error = explain("sagemaker:CreateTrainingJob", "rlvr-sums-train-1", refused)
    assert type(error) is (PlatformError if kind == "passing" else ConfigError)
    assert re.search(expected, str(error))
    assert "\n" not in str(error)


def test_a_refused_request_is_not_repeated(sagemaker: FakeSageMaker, s3: str) -> None:
    sagemaker.refuse("CreateTrainingJob", "AccessDeniedException", "not for you")
    with pytest.raises(ConfigError, match="grant this identity sagemaker:CreateTrainingJob"):
        run(sagemaker, s3)
    assert not sagemaker.jobs


def test_a_quota_that_does_not_suffice_is_a_wrong_setting(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.quota = {"ml.g6e.48xlarge": 1}
    with pytest.raises(ConfigError, match=r"quota does not suffice .* Service Quotas"):
        run(sagemaker, s3, instance_count=2)


def test_credentials_that_are_renewed_meanwhile_are_read_again(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    sagemaker.command = program("")
    sagemaker.refuse("DescribeTrainingJob", "ExpiredTokenException")
    run(sagemaker, s3)


def test_missing_credentials_and_a_missing_region_are_reported(
    sagemaker: FakeSageMaker, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(s3, SageMaker.model_validate(SETTINGS))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(ConfigError, match="credentials are missing"):
        backend_of().next_attempt(spec)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="no region is set; set `region`"):
        backend_of().next_attempt(spec)


def test_the_lines_so_far_are_read_without_following(sagemaker: FakeSageMaker, s3: str) -> None:
    sagemaker.command = program("print('one')")
    name = run(sagemaker, s3)
    assert list(backend_of().logs(name, follow=False)) == ["[algo-1] one"]
    with pytest.raises(ConfigError, match="rlvr-no-job does not exist"):
        list(backend_of().logs("rlvr-no-job", follow=False))


def test_the_backend_has_the_methods_of_the_protocol() -> None:
    from rlvr_components.jobs import Backend

    def accepts(backend: Backend) -> int:
        return backend.max_attempts

    assert accepts(SageMakerBackend(SageMaker.model_validate(SETTINGS))) == 5
