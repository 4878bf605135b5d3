"""Read the steps of a pipeline run from the Argo Workflow that KFP compiles it to. Pure.

A step is a DAG node with a pod in it: `WORKFLOW.root.exit-handler-1.train.executor`. A node that is
retried (in KFP's stock configuration every node) has children of its name with `(0)`, `(1)`, ….
Sources: backend/src/v2/compiler/argocompiler of kubeflow/pipelines 2.17; Argo's util/pod_name.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from rlvr_trainer.errors import EXIT_PREEMPTED, JobFailed, PlatformError
from rlvr_trainer.launch.exit_causes import FIRST_SIGNAL_CODE

StepState = Literal["PENDING", "RUNNING", "SUCCEEDED", "REUSED", "FAILED", "TERMINATED", "NOT_RUN"]

STEPS = (
    "check", "prepare-data", "evaluate-base", "train", "evaluate-trained", "compare-and-report",
    "publish", "finish",
)  # fmt: skip
"""The pipeline's tasks, in order."""

EXECUTOR = "executor"
ENDED = ("Succeeded", "Failed", "Error", "Skipped", "Omitted")
FAILED = ("Failed", "Error")
DEADLINE = "exceeded its deadline"
"""Part of the message of a node that was ended by a deadline or a termination of the run."""
RETRY_NUMBER = re.compile(r"\(\d+\)$")
KILLED = re.compile(r"signal: (killed|terminated)$")
"""End of the line by which KFP's launcher, which exits with 1, reports a killed step."""
EXIT_CODE = re.compile(r"exit code (\d+)")
RETRY = "KFP's Retry of this run continues it"
NEW_RUN = "a new run has a new id and trains from the beginning"


@dataclass(frozen=True)
class Failure:
    """The cause of a step's failure in one line, and an exit code of `rlvr_trainer.errors`."""

    message: str
    exit_code: int

    @property
    def is_passing(self) -> bool:
        """True if the same step may succeed when it is run again."""
        return self.exit_code >= FIRST_SIGNAL_CODE

    @property
    def remedy(self) -> str:
        """Return the advice how to continue the run."""
        if self.is_passing:
            return f"{RETRY} and adopts a job that still runs, {NEW_RUN}"
        return f"correct the cause and start a new run; if it lies outside of the run, {RETRY}"

    def __str__(self) -> str:
        return f"{self.message} (exit code {self.exit_code})"


@dataclass(frozen=True)
class StepAttempt:
    """One pod of a step."""

    pod: str
    phase: str
    """Argo's phase: Pending, Running, Succeeded, Failed, Error."""
    message: str = ""
    started: str = ""
    """Time as Kubernetes writes it."""

    @property
    def has_failed(self) -> bool:
        """True if the pod failed or was lost."""
        return self.phase in FAILED


@dataclass(frozen=True)
class WorkflowStep:
    """A task of the pipeline."""

    name: str
    state: StepState
    attempts: tuple[StepAttempt, ...] = ()
    """Oldest first."""
    started: str = ""
    """Time as Kubernetes writes it."""
    finished: str = ""

    @property
    def seconds(self) -> float | None:
        """Return its running time; None for a step that runs, or never ran."""
        if self.state not in ("SUCCEEDED", "FAILED", "TERMINATED"):
            return None
        try:
            start, end = datetime.fromisoformat(self.started), datetime.fromisoformat(self.finished)
        except ValueError:
            return None
        return max(0.0, (end - start).total_seconds())


def steps_of(workflow: Mapping[str, Any]) -> tuple[WorkflowStep, ...]:
    """Return the steps of the pipeline in order, including those that never ran."""
    nodes = list(((workflow.get("status") or {}).get("nodes") or {}).values())
    has_ended = (workflow.get("status") or {}).get("phase") in ENDED
    return tuple(_step(workflow, nodes, name, has_ended) for name in STEPS)


def is_terminated(workflow: Mapping[str, Any]) -> bool:
    """Return True if the user terminated the run.

    KFP then sets its deadline to 0; `argo stop` and `argo terminate` set `shutdown`.
    """
    spec = workflow.get("spec") or {}
    return spec.get("activeDeadlineSeconds") == 0 or bool(spec.get("shutdown"))


def is_ending(workflow: Mapping[str, Any], now: float) -> bool:
    """Return True if no step of the run is to continue at this time (seconds since the epoch).

    False: a pod that is stopped was evicted, drained or deleted.
    """
    if is_terminated(workflow) or "deletionTimestamp" in workflow["metadata"]:
        return True
    status = workflow.get("status") or {}
    limit_s, started = workflow["spec"].get("activeDeadlineSeconds"), status.get("startedAt")
    if limit_s and started and now >= datetime.fromisoformat(started).timestamp() + limit_s:
        return True
    return status.get("phase") in ENDED


def has_failed(workflow: Mapping[str, Any]) -> bool:
    """Return True if any node failed, including drivers of groups, which are not steps."""
    nodes = ((workflow.get("status") or {}).get("nodes") or {}).values()
    return any(node.get("phase") in FAILED for node in nodes)


def first_failed(steps: Sequence[WorkflowStep]) -> WorkflowStep | None:
    """Return the step that failed first, which made the run fail; None if none did."""
    failed = [step for step in steps if step.state == "FAILED"]
    return min(failed, key=lambda step: step.finished or "9", default=None)


def find_failure(log: str) -> Failure | None:
    """Return the last cause that a step (`step_process.attempt`) wrote to its log, on one line."""
    last = f"\n{log}".rpartition("\nerror: ")[2]
    match = re.match(r"(.*?) \(exit code (\d+)\)$", last, re.DOTALL | re.MULTILINE)
    if match is None or "\nerror: " not in f"\n{log}":
        return None
    return Failure(_one_line(match[1]), int(match[2]))


def failure_of(attempt: StepAttempt, log: str | None) -> Failure:
    """Return the failure that the attempt wrote, else that which Argo reports of its pod.

    `log` is None if it cannot be read.
    """
    written = find_failure(log or "")
    if written:
        return written
    said = _one_line(attempt.message) or "Argo gives no reason"
    code = EXIT_CODE.search(attempt.message)
    if DEADLINE in said:
        return Failure("it was stopped by a deadline or a termination", EXIT_PREEMPTED)
    if attempt.phase == "Error":
        return Failure(f"its pod was lost: {said}", PlatformError.exit_code)
    if code and int(code[1]) > FIRST_SIGNAL_CODE:
        return Failure(f"its process was killed: {said}", PlatformError.exit_code)
    last = next((line for line in reversed((log or "").splitlines()) if line.strip()), "")
    if KILLED.search(last):
        return Failure(f"its process was killed: {_one_line(last)}", PlatformError.exit_code)
    more = f"; its log ends with: {_one_line(last)}" if last else "; it left no log"
    return Failure(said + more, JobFailed.exit_code)


def pod_name(workflow: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Return the name that Argo gives a node's pod: WORKFLOW-TEMPLATE-HASH."""
    name = workflow["metadata"]["name"]
    if node["name"] == name:
        return str(name)
    if _annotation(workflow, "workflows.argoproj.io/pod-name-format") == "v1":
        return str(node["id"])
    return f"{name}-{node['templateName']}-{node['id'].rpartition('-')[2]}"


def _step(
    workflow: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], name: str, has_ended: bool
) -> WorkflowStep:
    own = [node for node in nodes if _path(node)[-1:] == [name]]
    inner = [node for node in nodes if _path(node)[-2:] == [name, EXECUTOR]]
    drivers = [node for node in nodes if _path(node)[-1:] == [f"{name}-driver"]]
    pods = sorted(
        (node for node in inner if node.get("type") == "Pod"),
        key=lambda node: (node.get("startedAt") or "9", node["name"]),
    )
    # a driver that fails leaves its step without a pod
    lost = [node for node in drivers if node.get("type") == "Pod" and node.get("phase") in FAILED]
    attempts = tuple(
        StepAttempt(
            pod_name(workflow, node),
            node.get("phase", ""),
            node.get("message") or "",
            node.get("startedAt") or "",
        )
        for node in pods or lost
    )
    # a node `train` has its retried children `train(0)` beside it
    whole = min(own, key=lambda node: len(node.get("name", "")), default=None)
    is_lost = bool(lost) and not pods and all(node.get("phase") in ENDED for node in drivers)
    if is_lost:
        whole = max(lost, key=lambda node: node.get("finishedAt") or "")
    is_reused = not pods and any(node.get("phase") == "Skipped" for node in inner)
    return WorkflowStep(
        name,
        _state(whole, attempts, has_ended=has_ended, is_reused=is_reused),
        attempts,
        (whole or {}).get("startedAt") or "",
        (whole or {}).get("finishedAt") or "",
    )


def _state(
    node: Mapping[str, Any] | None,
    attempts: Sequence[StepAttempt],
    *,
    has_ended: bool,
    is_reused: bool,
) -> StepState:
    match (node or {}).get("phase", ""):
        case "Succeeded":
            return "REUSED" if is_reused else "SUCCEEDED"
        case "Failed" | "Error":
            said = (node or {}).get("message") or ""
            ends = [said, *(attempt.message for attempt in attempts[-1:])]
            return "TERMINATED" if any(DEADLINE in end for end in ends) else "FAILED"
        case "Running":
            return "RUNNING"
        case "Skipped" | "Omitted":
            return "NOT_RUN"
        case _:
            return "NOT_RUN" if has_ended else "PENDING"


def _path(node: Mapping[str, Any]) -> list[str]:
    """Return the names from the workflow down to the node, without the numbers of retries."""
    return [RETRY_NUMBER.sub("", part) for part in str(node.get("name", "")).split(".")]


def _annotation(workflow: Mapping[str, Any], name: str) -> str:
    return str((workflow["metadata"].get("annotations") or {}).get(name, ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())
