"""The steps of a run in Kubeflow, why they failed, and what they printed.

KFP's API tells no cause of a failure: it is in the log of the step's pod. Which pods a step had is
in the Argo Workflow, which the first version of the API gives with a run.
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
from rlvr_pipelines.kubeflow.kfp_errors import NotFound
from rlvr_pipelines.local.run_progress import clock
from rlvr_trainer.errors import ConfigError, RLVRError

FOLLOW_S = 3.0
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""kfp's own wait does not know CANCELED, and would wait for ever."""
WORKFLOW_PATH = "/apis/v1beta1/runs/{run_id}"
LOG_PATH = "/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"
UI_LOG_PATH = "/k8s/pod/logs?podname={pod}&runid={run_id}&podnamespace={namespace}&createdat={day}"
"""All releases from 2.5 to 2.17 serve them. The log is the pod's, or Argo's archive of it.

The UI hands only v1beta1 and v2beta1 on to the API server, and has a path of its own for logs.
"""
ARGO_PHASES = {
    state: state.capitalize() for state in ("PENDING", "RUNNING", "SUCCEEDED", "FAILED", "SKIPPED")
}


@dataclass(frozen=True)
class Task:
    """A step of a run, with the cause of each attempt that failed."""

    step: WorkflowStep
    failures: tuple[Failure | None, ...] = ()
    """One for each attempt; None for those that did not fail."""

    @property
    def name(self) -> str:
        """The task's, `train`."""
        return self.step.name

    @property
    def state(self) -> str:
        """PENDING, RUNNING, SUCCEEDED, REUSED, FAILED, TERMINATED, NOT_RUN."""
        return self.step.state

    @property
    def failure(self) -> Failure | None:
        """Why the step failed; None unless it did."""
        if self.state not in ("FAILED", "TERMINATED"):
            return None
        return self.failures[-1] if self.failures else None

    @property
    def earlier(self) -> dict[int, Failure]:
        """The causes of the attempts before the last, by their number from 1."""
        numbered = enumerate(self.failures[:-1] if self.failure else self.failures, 1)
        return {number: failure for number, failure in numbered if failure}

    def facts(self) -> dict[str, Any]:
        """As plain data."""
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
        """For people: how far the step is, its cause, and those of earlier attempts."""
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
    """The causes of attempts that failed: each log is read once."""

    def __init__(self, kubeflow: Kubeflow, run_id: str) -> None:
        self._kubeflow, self._run_id = kubeflow, run_id
        self._known: dict[str, Failure] = {}

    def task(self, step: WorkflowStep, namespace: str) -> Task:
        """The step with them."""
        failures = []
        for attempt in step.attempts:
            if attempt.has_failed and attempt.pod not in self._known:
                log = None
                with suppress(RLVRError):  # its pod is gone, and nobody kept the log
                    log = read_log(self._kubeflow, self._run_id, attempt, namespace)
                self._known[attempt.pod] = failure_of(attempt, log)
            failures.append(self._known[attempt.pod] if attempt.has_failed else None)
        return Task(step, tuple(failures))


def _read_workflow(kubeflow: Kubeflow, run: Any) -> dict[str, Any]:
    """The Argo Workflow of a run (as `get_run` gives it); without pods if the API has it not."""
    with suppress(RLVRError, ValueError):
        answer = kubeflow.get(WORKFLOW_PATH.format(run_id=run.run_id))
        manifest = (answer.get("pipeline_runtime") or {}).get("workflow_manifest")
        workflow = json.loads(manifest or "null")
        if isinstance(workflow, dict) and workflow.get("metadata"):
            return workflow
    return _workflow_of_details(run)


def read_log(kubeflow: Kubeflow, run_id: str, attempt: StepAttempt, namespace: str) -> str:
    """What a pod of the run printed. Raises ConfigError, PlatformError, also when it is gone."""
    day = attempt.started[:10]
    errors: list[RLVRError] = []
    for path in (LOG_PATH, UI_LOG_PATH):  # the endpoint may be the API server's or the UI's
        try:
            return kubeflow.get_text(
                path.format(run_id=run_id, pod=attempt.pod, namespace=namespace, day=day)
            )
        except RLVRError as error:
            errors.append(error)
    raise min(errors, key=lambda error: isinstance(error, NotFound))


def read_steps(kubeflow: Kubeflow, run: Any) -> tuple[dict[str, Any], tuple[WorkflowStep, ...]]:
    """The run's Workflow and its steps; after its end, whatever did not run never will."""
    workflow = _read_workflow(kubeflow, run)
    status = dict(workflow.get("status") or {})
    if run.state in ENDED and status.get("phase") not in ("Succeeded", "Failed", "Error"):
        status["phase"] = "Failed"
    return workflow, steps_of({**workflow, "status": status})


def log_lines(
    kubeflow: Kubeflow, run_id: str, *, step: str = "", follow: bool = False
) -> Iterator[str]:
    """What the steps (or one) printed, in their order, each line after its step if it is of all.

    The server tells what there is and never waits for more, so that following reads again.
    Raises ConfigError when there is no such run or no pod, PlatformError.
    """
    printed: dict[str, int] = {}
    complete: set[str] = set()
    while True:
        run = kubeflow.call(kubeflow.runs.run_service_get_run, run_id=run_id)
        workflow, steps = read_steps(kubeflow, run)
        namespace = workflow["metadata"].get("namespace", "")
        attempts = [
            (each.name, number, attempt)
            for each in steps
            for number, attempt in enumerate(each.attempts, 1)
            if step in ("", each.name)
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
            f"{'had no pod' if step else 'has had a pod'}, so that there is no log; "
            f"{kubeflow.access.command('status', run_id)} shows how far the run is"
        )


def _own_lines(log: str, attempt: StepAttempt) -> list[str]:
    """What the step printed; before it, KFP prints the executor's input with the whole recipe."""
    lines = log.splitlines()
    for index, line in enumerate(lines):
        if line.startswith(STARTED):
            return lines[index:]
    return [] if attempt.phase == "Running" else lines


def _workflow_of_details(run: Any) -> dict[str, Any]:
    """What the run's task details tell of the Workflow: the states of steps, and no pods."""
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
