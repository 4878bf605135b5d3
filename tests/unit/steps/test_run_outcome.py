"""Derive a run's outcome from KFP 2.17's Workflow as of the exit handler."""

from collections.abc import Callable

import pytest
from tests.unit.kubeflow.workflows import Ends, pod_of, workflow

from rlvr_components.jobs import JobSummary
from rlvr_components.steps import run_outcome
from rlvr_components.steps.run_outcome import outcome_of, read_outcome
from rlvr_components.workflow import Failure
from rlvr_trainer.errors import EXIT_PREEMPTED, PlatformError

ALL = dict.fromkeys(
    ("check", "prepare-data", "evaluate-base", "train", "evaluate-trained", "compare-and-report"),
    "SUCCEEDED",
)
CAUSE = "error: the reward of gsm8k fails; correct it (exit code 5)\n"


def logs(**by_pod: str) -> Callable[[str], str | None]:
    return by_pod.get


def job(cause: str, exit_code: int) -> JobSummary:
    return JobSummary("a-1", "PyTorchJob", "team", "tiny", "train", 1, "failed", cause, exit_code)


LIVE = JobSummary("a-2", "PyTorchJob", "team", "tiny", "train", 2, "running")
KILLED = "F1102 10:00:00 launcher.go: failed to execute component: signal: killed\n"
LEFT = "error: a signal stopped this pod while its run continues (exit code 143)\n"


def test_a_run_that_did_not_publish_has_succeeded() -> None:
    run = workflow({**ALL, "publish": "OMITTED", "finish": "RUNNING"})

    assert outcome_of(run, logs(), []).markdown() == "# Succeeded\n"


def test_a_terminated_run_says_when_and_what_continues_it() -> None:
    ends: Ends = {"check": "SUCCEEDED", "train": "TERMINATED", "finish": "RUNNING"}
    outcome = outcome_of(workflow(ends, is_terminated=True), logs(), [])

    assert outcome.facts()["state"] == "TERMINATED"
    assert outcome.facts()["exit_code"] == EXIT_PREEMPTED
    text = outcome.markdown()
    assert text.startswith("# Terminated at 2026-11-02T10:13:00Z\n\nExit code 143. KFP's Retry")
    assert "a new run has a new id and trains from the beginning" in text


def test_a_failed_run_has_step_attempt_cause_and_what_continues_it() -> None:
    run = workflow({"check": "SUCCEEDED", "train": ["LOST", "FAILED"], "finish": "RUNNING"})

    outcome = outcome_of(run, logs(**{pod_of("train", 1): CAUSE}), [job("less telling", 7)])

    assert outcome.facts() == {
        "state": "FAILED",
        "step": "train",
        "attempt": 2,
        "message": "the reward of gsm8k fails; correct it",
        "exit_code": 5,
    }
    assert outcome.markdown().startswith(
        "# Failed at train, attempt 2\n\nthe reward of gsm8k fails; correct it (exit code 5)\n\n"
        "To continue: correct the cause and start a new run"
    )


def test_a_run_that_never_came_to_its_report_has_not_succeeded() -> None:
    run = workflow({"check": "SUCCEEDED"})
    assert outcome_of(run, logs(), []).state == "ENDED"

    for node in run["status"]["nodes"].values():
        if node["displayName"].startswith("root-driver"):
            node["phase"] = "Error"
    assert outcome_of(run, logs(), []).state == "FAILED"


def test_the_job_gives_the_cause_of_a_deleted_pod() -> None:
    run = workflow({"train": "LOST"})

    assert outcome_of(run, logs(), [job("out of memory", 12)]).failure == Failure(
        "out of memory", 12
    )
    lost = outcome_of(run, logs(), []).failure
    assert lost == Failure("its pod was lost: pod deleted", PlatformError.exit_code)


@pytest.mark.parametrize(
    ("end", "log"),
    [("LOST", None), ("FAILED", KILLED), ("FAILED", LEFT), ("FAILED", None), ("FAILED", "cut off")],
)
def test_a_step_whose_pod_was_lost_leaves_its_job_to_the_runs_retry(
    end: str, log: str | None
) -> None:
    run = workflow({"evaluate-base": "SUCCEEDED", "train": end})

    outcome = outcome_of(run, {pod_of("train"): log}.get, [LIVE, job("preempted", 143)])

    assert outcome.lost == ("train",)
    assert outcome.failure is not None
    assert outcome.failure.exit_code in (138, 143)
    assert "adopts a job that still runs" in outcome.markdown()


def test_a_run_that_failed_for_good_or_was_terminated_leaves_no_job() -> None:
    lost: Ends = {"evaluate-base": "FAILED", "train": "LOST"}
    causes = logs(**{pod_of("evaluate-base"): CAUSE})

    assert outcome_of(workflow(lost), causes, [LIVE]).lost == ()
    assert outcome_of(workflow(lost, is_terminated=True), causes, [LIVE]).lost == ()
    assert outcome_of(workflow({"train": "TERMINATED"}), causes, [LIVE]).lost == ()


@pytest.mark.parametrize(
    ("state", "title"),
    [("SUCCEEDED", "# Succeeded"), ("FAILED", "# Failed"), ("RUNNING", "# Ended")],
)
def test_outside_of_kubeflow_the_state_is_what_kfp_says_but_never_running(
    state: str, title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KFP_POD_NAME", raising=False)

    assert read_outcome(state, "", []).markdown().startswith(f"{title}\n")


def test_a_workflow_that_may_not_be_read_is_not_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "finish-1")

    def refuse() -> None:
        raise PlatformError("the API server does not answer")

    monkeypatch.setattr(run_outcome, "_from_cluster", refuse)

    assert read_outcome("RUNNING", "", []).state == "ENDED"
    assert read_outcome("FAILED", "", []).state == "FAILED"
