"""Derive a run's steps from Argo's Workflow as recorded in tests/unit/kubeflow/workflows."""

import pytest
from tests.unit.kubeflow.workflows import pod_of, workflow

from rlvr_components.workflow import (
    STEPS,
    Failure,
    StepAttempt,
    StepState,
    failure_of,
    find_failure,
    first_failed,
    is_ending,
    is_terminated,
    steps_of,
)
from rlvr_pipelines.pipeline.definition import rlvr_pipeline
from rlvr_trainer.errors import EXIT_PREEMPTED, JobFailed, PlatformError

both = pytest.mark.parametrize("is_stock", [True, False])


def test_the_steps_are_the_pipelines_tasks_but_for_its_groups() -> None:
    spec = rlvr_pipeline.pipeline_spec
    groups = (spec.root, *spec.components.values())  # KFP nests the groups
    tasks = {name for group in groups for name in group.dag.tasks}

    assert set(STEPS) == {name for name in tasks if not name.startswith(("exit-", "condition"))}


@both
def test_nothing_but_the_pipelines_steps_is_listed_in_its_order(is_stock: bool) -> None:
    run = workflow({"train": "RUNNING", "check": "SUCCEEDED"}, is_stock=is_stock)

    steps = steps_of(run)

    assert [step.name for step in steps] == list(STEPS)
    states: dict[str, StepState] = {step.name: step.state for step in steps}
    assert (states["check"], states["train"]) == ("SUCCEEDED", "RUNNING")
    assert states["publish"] == "PENDING"


def test_a_recurring_run_has_the_same_steps() -> None:
    run = workflow({"check": "SUCCEEDED"}, name="nightly-abcde-1-987654")

    assert steps_of(run)[0].attempts[0].pod == pod_of("check", name="nightly-abcde-1-987654")


def test_steps_that_never_ran_are_not_run_once_the_run_has_ended() -> None:
    run = workflow({"check": "FAILED", "train": "OMITTED"}, phase="Failed")
    states = {step.name: (step.state, step.seconds) for step in steps_of(run)}

    assert states["check"] == ("FAILED", 180.0)
    assert states["train"] == states["publish"] == ("NOT_RUN", None)


@both
def test_a_cached_step_is_reused(is_stock: bool) -> None:
    steps = steps_of(workflow({"prepare-data": "REUSED"}, is_stock=is_stock))

    assert [step.state for step in steps if step.name == "prepare-data"] == ["REUSED"]


@both
def test_each_attempt_is_a_pod_by_argos_name(is_stock: bool) -> None:
    run = workflow({"train": ["LOST", "RUNNING"]}, is_stock=is_stock)
    train = steps_of(run)[STEPS.index("train")]

    assert train.state == "RUNNING"
    assert train.attempts == (
        StepAttempt(
            pod_of("train", 0, is_stock=is_stock), "Error", "pod deleted", "2026-11-02T10:00:00Z"
        ),
        StepAttempt(pod_of("train", 1, is_stock=is_stock), "Running", "", "2026-11-02T10:00:30Z"),
    )
    assert train.attempts[0].pod.startswith("rlvr-tiny-x7k2p-retry-system-container-impl-")


def test_a_driver_that_fails_is_its_steps_failure() -> None:
    run = workflow({"check": "SUCCEEDED"}, phase="Failed")
    nodes = run["status"]["nodes"]
    for node in list(nodes.values()):
        if node["displayName"].startswith("check-driver"):
            node |= {"phase": "Failed", "message": "main: Error (exit code 1)"}
        elif ".check" in node["name"]:
            del nodes[node["id"]]

    check = steps_of(run)[0]

    assert check.state == "FAILED"
    assert "system-container-driver" in check.attempts[0].pod


def test_the_first_failed_step_is_the_one_that_ended_first() -> None:
    steps = steps_of(workflow({"train": "FAILED", "evaluate-base": "FAILED"}))

    failed = first_failed(steps)
    assert failed is not None
    assert failed.name == "train"


def test_a_terminated_run_has_a_deadline_of_nothing() -> None:
    run = workflow({"train": "TERMINATED"}, phase="Failed", is_terminated=True)

    assert is_terminated(run)
    assert not is_terminated(workflow({}))
    assert {step.state for step in steps_of(run) if step.name == "train"} == {"TERMINATED"}


NOW = 1_800_000_000.0
BEGAN = "2027-01-15T08:00:00Z"
"""NOW as Kubernetes writes it."""


@pytest.mark.parametrize(
    ("metadata", "spec", "status", "is_over"),
    [
        ({}, {}, {"phase": "Running", "startedAt": BEGAN}, False),
        ({}, {"activeDeadlineSeconds": 0}, {"phase": "Running"}, True),
        ({}, {"shutdown": "Stop"}, {"phase": "Running"}, True),
        ({}, {"activeDeadlineSeconds": 1}, {"phase": "Running", "startedAt": BEGAN}, False),
        ({}, {"activeDeadlineSeconds": -1}, {"phase": "Running", "startedAt": BEGAN}, True),
        ({}, {}, {"phase": "Failed"}, True),
        ({"deletionTimestamp": BEGAN}, {}, {"phase": "Running"}, True),
        ({}, {}, {}, False),
    ],
)
def test_a_pod_is_stopped_with_its_run_only_if_the_workflow_says_so(
    metadata: dict[str, str], spec: dict[str, str], status: dict[str, str], is_over: bool
) -> None:
    assert is_ending({"metadata": metadata, "spec": spec, "status": status}, NOW) is is_over


LOG = """{"inputs": "all of the recipe"}
started step train
[master-0] error: the loss is not finite
error: something that was tried again (exit code 138)
error: recipe: 2 mistakes
  model: missing
  sampling.temperature: -1 is negative; choose 0 or more (exit code 2)
F1102 10:00:00.000000 launcher: exit status 2
"""


def test_the_cause_is_the_last_one_that_the_step_wrote_in_one_line() -> None:
    assert find_failure(LOG) == Failure(
        "recipe: 2 mistakes model: missing sampling.temperature: -1 is negative; choose 0 or more",
        2,
    )
    assert find_failure("error: no code\n") is None
    assert find_failure("") is None


@pytest.mark.parametrize(
    ("phase", "message", "log", "cause", "exit_code"),
    [
        ("Failed", "main: Error (exit code 1)", LOG, "recipe: 2 mistakes", 2),
        ("Error", "pod deleted", None, "its pod was lost: pod deleted", PlatformError.exit_code),
        ("Failed", "OOMKilled (exit code 137)", "step 3\n", "was killed", PlatformError.exit_code),
        ("Failed", "main: Error (exit code 1)", "a\nb\n\n", "ends with: b", JobFailed.exit_code),
        ("Failed", "main: Error (exit code 1)", None, "left no log", JobFailed.exit_code),
        ("Failed", "Step exceeded its deadline", None, "a termination", EXIT_PREEMPTED),
    ],
)
def test_without_a_cause_of_its_own_argo_says_what_happened(
    phase: str, message: str, log: str | None, cause: str, exit_code: int
) -> None:
    failure = failure_of(StepAttempt("pod", phase, message), log)

    assert cause in failure.message
    assert failure.exit_code == exit_code


def test_the_remedy_is_a_retry_for_what_may_pass_and_a_correction_for_what_does_not() -> None:
    assert "KFP's Retry of this run continues it" in Failure("lost", 138).remedy
    assert Failure("wrong", 2).remedy.startswith("correct the cause and start a new run")
