"""The steps of a run in Kubeflow, the causes of their failures, and their logs.

KFP's API has no cause of a failure: it is in the log of the step's pod. The pods of a step are in
the Argo Workflow, which version v1beta1 of the API returns with a run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from rlvr_components.steps.step_process import STARTED
from rlvr_components.workflow import Failure, StepAttempt, WorkflowStep, failure_of, steps_of
from rlvr_pipelines.kubeflow.connection import Kubeflow
from rlvr_pipelines.kubeflow.kfp_errors import KubeflowNotFound
from rlvr_pipelines.local.run_progress import clock
from rlvr_trainer.errors import ConfigError, RLVRError

FOLLOW_S = 3.0
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""kfp's own wait does not know CANCELED, and would never return."""
WORKFLOW_PATH = "/apis/v1beta1/runs/{run_id}"
LOG_PATH = "/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"
UI_LOG_PATH = "/k8s/pod/logs?podname={pod}&runid={run_id}&podnamespace={namespace}&createdat={day}"
"""Releases 2.5 to 2.17 serve these paths. The log is the pod's, or Argo's archive of it.

The UI forwards only v1beta1 and v2beta1 to the API server, and has its own path for logs.
"""
ARGO_PHASES = {
    state: state.capitalize() for state in ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "SKIPPED")
}


@dataclass(frozen=True)
class KubeflowTask:
    """A step of a run, with the cause of each attempt that failed."""

    step: WorkflowStep
    failures: tuple[Failure | None, ...] = ()
    """The failure of every attempt; None for one that did not fail."""

    @property
    def name(self) -> str:
        """The name of the task: `train`."""
        return self.step.name

    @property
    def state(self) -> str:
        """One of PENDING, RUNNING, SUCCEEDED, REUSED, FAILED, TERMINATED, NOT_RUN."""
        return self.step.state

    @property
    def failure(self) -> Failure | None:
        """The cause of a failed step; None for others."""
        if self.state not in ("FAILED", "TERMINATED"):
            return None
        return self.failures[-1] if self.failures else None

    @property
    def earlier(self) -> dict[int, Failure]:
        """Number (from 1) → cause of the failed attempts before the last."""
        numbered = enumerate(self.failures[:-1] if self.failure else self.failures, 1)
        return {number: failure for number, failure in numbered if failure}

    def facts(self) -> dict[str, Any]:
        """Return the task as plain data."""
        return {
            "name": self.name,
            "state": self.state,
            "seconds": self.step.seconds,
            "error": self.failure.message if self.failure else "",
            "exit_code": self.failure.exit_code if self.failure else None,
            "attempts": [
                asdict(attempt) | {"failure": asdict(failure) if failure else None}
                for attempt, failure in zip(self.step.attempts, self.failures, strict=True)
            ],
        }

    def lines(self) -> list[str]:
        """Return lines of text: the state, the cause, and the causes of earlier attempts."""
        seconds, number = self.step.seconds, len(self.step.attempts)
        took = f"after {clock(seconds)}" if seconds is not None else ""
        attempt = f"attempt {number}" if number > 1 else ""
        state = self.state.lower().replace("_", " ")
        words = (f"{self.name:<22}", state, took, attempt, str(self.failure or ""))
        return [
            "  ".join(word for word in words if word),
            *(f"  attempt {number} failed: {cause}" for number, cause in self.earlier.items()),
        ]


class Causes:
    """The causes of failed attempts, for which a log is read only once."""

    def __init__(self, kubeflow: Kubeflow, run_id: str) -> None:
        self._kubeflow, self._run_id = kubeflow, run_id
        self._known: dict[str, Failure] = {}

    def task(self, step: WorkflowStep, namespace: str) -> KubeflowTask:
        """Return the step with its causes."""
        failures = []
        for attempt in step.attempts:
            if attempt.has_failed and attempt.pod not in self._known:
                log = None
                with suppress(RLVRError):  # the pod is gone, and its log was not archived
                    log = read_log(self._kubeflow, self._run_id, attempt, namespace)
                self._known[attempt.pod] = failure_of(attempt, log)
            failures.append(self._known[attempt.pod] if attempt.has_failed else None)
        return KubeflowTask(step, tuple(failures))


def _read_workflow(kubeflow: Kubeflow, run: Any) -> dict[str, Any]:
    """Return the Argo Workflow of a run; one without pods if the API does not have it."""
    with suppress(RLVRError, ValueError):
        answer = kubeflow.get(WORKFLOW_PATH.format(run_id=run.run_id))
        manifest = (answer.get("pipeline_runtime") or {}).get("workflow_manifest")
        workflow = json.loads(manifest or "null")
        if isinstance(workflow, dict) and workflow.get("metadata"):
            return workflow
    return _workflow_of_details(run)


def read_log(kubeflow: Kubeflow, run_id: str, attempt: StepAttempt, namespace: str) -> str:
    """Return the log of an attempt's pod. Raises ConfigError or PlatformError if it is gone."""
    day = attempt.started[:10]
    errors: list[RLVRError] = []
    for path in (LOG_PATH, UI_LOG_PATH):  # the endpoint may be the API server's or the UI's
        try:
            return kubeflow.get_text(
                path.format(run_id=run_id, pod=attempt.pod, namespace=namespace, day=day)
            )
        except RLVRError as error:
            errors.append(error)
    raise min(errors, key=lambda error: isinstance(error, KubeflowNotFound))


def read_steps(kubeflow: Kubeflow, run: Any) -> tuple[dict[str, Any], tuple[WorkflowStep, ...]]:
    """Return the run's Workflow and its steps; in a run that has ended, no step is pending."""
    workflow = _read_workflow(kubeflow, run)
    status = dict(workflow.get("status") or {})
    if run.state in ENDED and status.get("phase") not in ("Succeeded", "Failed", "Error"):
        status["phase"] = "Failed"
    return workflow, steps_of({**workflow, "status": status})


def kubeflow_log_lines(
    kubeflow: Kubeflow, run_id: str, *, step: str = "", follow: bool = False
) -> Iterator[str]:
    """Yield the log lines of the steps in their order, each after its step's name, or of one step.

    The server does not stream a log, so that following polls.
    Raises ConfigError if there is no such run or no pod, PlatformError.
    """
    printed: dict[str, int] = {}
    complete: set[str] = set()
    while True:
        run = kubeflow.call(kubeflow.runs.run_service_get_run, run_id=run_id)
        workflow, steps = read_steps(kubeflow, run)
        namespace = workflow["metadata"].get("namespace", "")
        attempts = [
            (candidate.name, number, attempt)
            for candidate in steps
            for number, attempt in enumerate(candidate.attempts, 1)
            if step in ("", candidate.name)
            and attempt.phase != "Pending"
            and attempt.pod not in complete
        ]
        for name, number, attempt in attempts:
            prefix, lines = "" if step else f"{name:<18}  ", list[str]()
            try:
                lines = _own_lines(read_log(kubeflow, run_id, attempt, namespace), attempt)
            except RLVRError as error:
                if attempt.pod not in printed:
                    yield f"{prefix}(the log of attempt {number} cannot be read: {error})"
            known = printed.get(attempt.pod, 0)
            printed[attempt.pod] = max(known, len(lines))
            yield from (prefix + line for line in lines[known:])
            if attempt.phase != "Running":
                complete.add(attempt.pod)
        if run.state in ENDED or not follow:
            break
        time.sleep(FOLLOW_S)
    if not printed:
        raise ConfigError(
            f"{f'step {step}' if step else 'no step'} of run {run_id} "
            f"{'had no pod' if step else 'has had a pod'}, and so there is nothing to print; "
            f"{kubeflow.access.command('status', run_id)} shows the steps"
        )


def _own_lines(log: str, attempt: StepAttempt) -> list[str]:
    """Return the step's own lines, without the executor's input that KFP prints before them."""
    lines = log.splitlines()
    for index, line in enumerate(lines):
        if line.startswith(STARTED):
            return lines[index:]
    return [] if attempt.phase == "Running" else lines


def _workflow_of_details(run: Any) -> dict[str, Any]:
    """Return a Workflow made from the run's task details: states of steps, without pods."""
    details = (run.run_details.task_details if run.run_details else None) or ()
    nodes: dict[str, Mapping[str, Any]] = {
        f"{number}": {
            "name": detail.display_name or "",
            "phase": ARGO_PHASES.get(detail.state, "Omitted"),
            "startedAt": _text(detail.start_time),
            "finishedAt": _text(detail.end_time),
        }
        for number, detail in enumerate(details)
    }
    phase = ARGO_PHASES.get(run.state, "")
    return {"metadata": {"name": ""}, "status": {"phase": phase, "nodes": nodes}}


def _text(time: Any) -> str:
    return time.isoformat() if time else ""
