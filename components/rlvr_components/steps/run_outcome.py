"""Find the outcome of a pipeline run, from its Workflow, the logs of its pods and its jobs.

KFP gives the last step the state of the group of all others, without a cause. The state stays
RUNNING if a condition was not met, the run was terminated or a pod was lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlvr_components.jobs import JobSummary
from rlvr_components.pipeline_run import in_kubeflow, own_namespace
from rlvr_components.workflow import (
    NEW_RUN,
    RETRY,
    Failure,
    WorkflowStep,
    failure_of,
    find_failure,
    first_failed,
    has_failed,
    is_terminated,
    steps_of,
)
from rlvr_trainer.errors import EXIT_PREEMPTED, JobFailed, PlatformError, RLVRError

logger = logging.getLogger(__name__)

LOG_QUERY: dict[str, str | int | bool] = {"container": "main", "tailLines": 1000}
LOG_TIMEOUT_S = 30.0
LAST_STEP = "compare-and-report"
"""Last of the steps that every run has."""
RunState = Literal["SUCCEEDED", "FAILED", "TERMINATED", "ENDED"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run; the state is ENDED if it is not known."""

    state: RunState
    step: str = ""
    """The step that failed first."""
    attempt: int = 0
    failure: Failure | None = None
    time: str = ""
    """Time of a termination, as Kubernetes writes it."""
    lost: tuple[str, ...] = ()
    """The steps that lost their pods, if none failed by itself: KFP's Retry adopts their jobs."""

    def facts(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        return {
            "state": self.state,
            "step": self.step,
            "attempt": self.attempt,
            "message": self.failure.message if self.failure else "",
            "exit_code": self.failure.exit_code if self.failure else None,
        }

    def markdown(self) -> str:
        """Return what happened, its cause and how to continue, as Markdown for the UI."""
        match self.state:
            case "SUCCEEDED":
                return "# Succeeded\n"
            case "TERMINATED":
                when = f" at {self.time}" if self.time else ""
                return (
                    f"# Terminated{when}\n\nExit code {EXIT_PREEMPTED}. {RETRY} from the last "
                    f"checkpoint, {NEW_RUN}.\n"
                )
            case "ENDED":
                return "# Ended\n\nThe outcome is not known; see the log of this step.\n"
        where = f" at {self.step}" if self.step else ""
        where += f", attempt {self.attempt}" if self.attempt > 1 else ""
        if self.failure is None:
            return f"# Failed{where}\n"
        return f"# Failed{where}\n\n{self.failure}\n\nTo continue: {self.failure.remedy}.\n"


def read_outcome(state: str, message: str, jobs: Sequence[JobSummary]) -> Outcome:
    """Return the run's outcome, from all that this step may read.

    `state` and `message` are those of KFP.
    """
    if in_kubeflow():
        try:
            workflow, read_log = _from_cluster()
        except RLVRError as error:
            logger.warning("the run's Workflow cannot be read: %s", error)
        else:
            return outcome_of(workflow, read_log, jobs)
    failed = _failed_job(jobs)
    if state == "FAILED" or failed:
        reported = Failure(message, JobFailed.exit_code) if message else None
        return Outcome("FAILED", failed.step if failed else "", 0, _of_job(failed) or reported)
    return Outcome("SUCCEEDED" if state == "SUCCEEDED" else "ENDED")


def outcome_of(
    workflow: Mapping[str, Any],
    read_log: Callable[[str], str | None],
    jobs: Sequence[JobSummary],
) -> Outcome:
    """Return the outcome of the Workflow's run.

    `read_log` returns a pod's log, None if it is gone.
    """
    steps = steps_of(workflow)
    if is_terminated(workflow):
        stopped = [step.finished for step in steps if step.state == "TERMINATED"]
        failure = Failure("the run was terminated", EXIT_PREEMPTED)
        return Outcome("TERMINATED", failure=failure, time=max(stopped, default=""))
    failed = first_failed(steps)
    if failed:
        failures = {
            step.name: _cause(step, read_log, jobs) for step in steps if step.state == "FAILED"
        }
        is_passing = all(failure and failure.is_passing for failure in failures.values())
        return Outcome(
            "FAILED",
            failed.name,
            len(failed.attempts),
            failures[failed.name],
            lost=tuple(failures) if is_passing else (),
        )
    stopped_steps = [step for step in steps if step.state == "TERMINATED"]
    if stopped_steps:
        failure = Failure("the step exceeded its deadline", JobFailed.exit_code)
        return Outcome("FAILED", stopped_steps[0].name, len(stopped_steps[0].attempts), failure)
    if any(step.name == LAST_STEP and step.state in ("SUCCEEDED", "REUSED") for step in steps):
        return Outcome("SUCCEEDED")
    return Outcome("FAILED" if has_failed(workflow) else "ENDED")


def _cause(
    step: WorkflowStep, read_log: Callable[[str], str | None], jobs: Sequence[JobSummary]
) -> Failure | None:
    """Return the cause that the step's last pod wrote, else its job's, else Argo's."""
    own = [job for job in jobs if job.step == step.name]
    # a job that was retried is not a cause
    of_job = _of_job(_failed_job(own)) if all(job.has_ended for job in own) else None
    if not step.attempts:
        return of_job
    last = step.attempts[-1]
    log = read_log(last.pod)
    known = find_failure(log or "") or of_job
    if known:
        return known
    failure = failure_of(last, log)
    if failure.is_passing or all(job.has_ended for job in own):
        return failure
    # a launcher that fails by itself writes the cause, and leaves no job
    return Failure(f"its launcher was lost: {failure.message}", PlatformError.exit_code)


def _failed_job(jobs: Sequence[JobSummary]) -> JobSummary | None:
    return next((job for job in jobs if job.phase == "failed" and job.cause), None)


def _of_job(job: JobSummary | None) -> Failure | None:
    return Failure(job.cause, job.exit_code or JobFailed.exit_code) if job else None


def _from_cluster() -> tuple[dict[str, Any], Callable[[str], str | None]]:
    """Return this pod's Workflow, and a function that reads the logs of its pods.

    Raises ConfigError, PlatformError.
    """
    from rlvr_components.kubernetes.client import KubernetesApi
    from rlvr_components.own_workflow import workflow_path

    client = KubernetesApi()
    core = f"/api/v1/namespaces/{own_namespace()}/pods"
    path = workflow_path(client.get)

    def read_log(pod: str) -> str | None:
        try:
            stream = client.stream(f"{core}/{pod}/log", LOG_QUERY, read_timeout_s=LOG_TIMEOUT_S)
            return b"".join(stream.lines()).decode("utf-8", "replace")
        except RLVRError as error:
            logger.warning("the log of %s cannot be read: %s", pod, error)
            return None

    return client.get(path), read_log
