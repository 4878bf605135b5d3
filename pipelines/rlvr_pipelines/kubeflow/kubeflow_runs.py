"""A run in Kubeflow: start it, see how far it is, follow it to its end, terminate it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kfp_server_api import V2beta1Experiment, V2beta1Run, V2beta1RuntimeConfig

from rlvr_pipelines.kubeflow.connection import Kubeflow
from rlvr_pipelines.kubeflow.versions import equals
from rlvr_pipelines.local.run_progress import clock
from rlvr_pipelines.pipeline.package import Package
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

POLL_S = 3.0
MAX_SILENCE_S = 300.0
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
"""kfp's own wait does not know CANCELED, and would wait for ever."""
NO_STEP = re.compile(
    r"rlvr-.*|root|executor.*|.*-driver|(exit-handler|condition|condition-branches|for-loop)-\d+.*"
)
"""Argo's nodes that are no step: the workflow itself, drivers, pods within a step, groups."""


@dataclass(frozen=True)
class Task:
    """A step of a run, as Kubeflow tells of it."""

    name: str
    state: str
    """KFP's own word: PENDING, RUNNING, SUCCEEDED, SKIPPED, FAILED."""
    error: str = ""
    seconds: float | None = None
    """How long it ran, once it has ended."""

    def line(self) -> str:
        """For people."""
        took = f"after {clock(self.seconds)}" if self.seconds is not None else ""
        words = (f"{self.name:<22}", self.state.lower(), took, self.error)
        return "  ".join(word for word in words if word)


@dataclass(frozen=True)
class Run:
    """A run of the pipeline."""

    id: str
    name: str
    state: str
    link: str
    tasks: tuple[Task, ...] = ()
    error: str = ""
    job_namespace: str = ""
    """Where its jobs are; empty: where the run is."""

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {"run": self.id, "kind": "kubeflow", "name": self.name, "state": self.state,
                "error": self.error, "link": self.link,
                "tasks": [vars(task) for task in self.tasks]}  # fmt: skip

    @property
    def ended(self) -> bool:
        """Whether it will change no more."""
        return self.state in ENDED


def start_run(
    kubeflow: Kubeflow,
    package: Package,
    *,
    experiment: str,
    name: str,
    parameters: Mapping[str, Any],
) -> Run:
    """Run the package with these parameters; the experiment is made where there is none.

    Raises ConfigError for an archived experiment or what the server refuses, PlatformError.
    """
    run = V2beta1Run(
        display_name=name,
        description=package.description,
        experiment_id=_experiment_id(kubeflow, experiment),
        pipeline_spec=package.spec,
        runtime_config=V2beta1RuntimeConfig(parameters=dict(parameters)),
    )
    return _run(kubeflow, kubeflow.call(kubeflow.runs.run_service_create_run, run=run))


def get_run(kubeflow: Kubeflow, run_id: str) -> Run:
    """How far the run is. Raises ConfigError when there is none of that id."""
    return _run(kubeflow, kubeflow.call(kubeflow.runs.run_service_get_run, run_id=run_id))


def terminate_run(kubeflow: Kubeflow, run_id: str) -> None:
    """As Terminate in the UI: the steps get SIGTERM, and the training job is deleted by its own."""
    kubeflow.call(kubeflow.runs.run_service_terminate_run, run_id=run_id)


def follow_run(kubeflow: Kubeflow, run_id: str, show: Callable[[Task], None]) -> Run:
    """Show each task when its state changes; returns the run once it has ended.

    A server that does not answer for a few minutes is waited for, then PlatformError: the run
    itself goes on.
    """
    shown: dict[str, str] = {}
    heard = time.monotonic()
    while True:
        try:
            run = get_run(kubeflow, run_id)
        except PlatformError as error:
            if time.monotonic() - heard > MAX_SILENCE_S:
                raise PlatformError(
                    f"{error}; the run goes on: `rlvr status {run_id}` tells how far it is"
                ) from None
            time.sleep(POLL_S)
            continue
        heard = time.monotonic()
        for task in run.tasks:
            if shown.get(task.name) != task.state:
                shown[task.name] = task.state
                show(task)
        if run.ended:
            return run
        time.sleep(POLL_S)


def check_outcome(run: Run) -> None:
    """Raise JobFailed unless the run succeeded: the exit code of `--wait`."""
    match run.state:
        case "SUCCEEDED" | "SKIPPED":
            return
        case "CANCELED":
            raise JobFailed(
                f"run {run.name} was terminated; a run with the same --storage continues from the "
                "last checkpoint",
                exit_code=EXIT_PREEMPTED,
            )
        case _:
            failed = [task for task in run.tasks if task.state == "FAILED"]
            where = f" at {failed[0].name}" if failed else ""
            cause = (failed[0].error if failed else "") or run.error
            raise JobFailed(
                f"run {run.name} failed{where}{f': {cause}' if cause else ''}; the step's log says "
                f"more: rlvr logs {run.id}, or {run.link}"
            )


def _experiment_id(kubeflow: Kubeflow, name: str) -> str:
    where = {"namespace": kubeflow.namespace} if kubeflow.namespace else {}
    found = kubeflow.call(
        kubeflow.experiments.experiment_service_list_experiments, filter=equals(name), **where
    )
    for experiment in found.experiments or ():
        if experiment.storage_state == "ARCHIVED":
            # Kubeflow would run it all the same, and the UI hide it.
            raise ConfigError(
                f"experiment {name!r} is archived, and a run in it would not be seen; restore it "
                "in the UI, or use another --experiment"
            )
        return str(experiment.experiment_id)
    created = kubeflow.call(
        kubeflow.experiments.experiment_service_create_experiment,
        experiment=V2beta1Experiment(display_name=name, namespace=kubeflow.namespace),
    )
    return str(created.experiment_id)


def _run(kubeflow: Kubeflow, run: Any) -> Run:
    details = run.run_details.task_details if run.run_details else None
    steps = [task for task in details or () if not NO_STEP.fullmatch(task.display_name or "root")]
    # creation is the same for all of them: the workflow's
    steps.sort(key=lambda step: step.start_time.timestamp() if step.start_time else math.inf)
    return Run(
        id=run.run_id,
        name=run.display_name,
        state=run.state or "PENDING",
        link=kubeflow.link(f"runs/details/{run.run_id}"),
        tasks=tuple(
            Task(step.display_name, step.state or "PENDING", _error(step), _seconds(step))
            for step in steps
        ),
        error=_error(run),
        job_namespace=_job_namespace(run) or kubeflow.namespace or "",
    )


def _job_namespace(run: Any) -> str:
    parameters = (run.runtime_config.parameters if run.runtime_config else None) or {}
    return str(parameters.get("job_namespace") or "")


def _error(detail: Any) -> str:
    """What went wrong; the server fills in one of two places."""
    if detail.error and detail.error.message:
        return " ".join(detail.error.message.split())
    for status in reversed(detail.state_history or ()):
        if status.error and status.error.message:
            return " ".join(status.error.message.split())
    return ""


def _seconds(task: Any) -> float | None:
    start: datetime | None = task.start_time
    end: datetime | None = task.end_time
    if not start or not end or end < start:  # not set is 1970
        return None
    return (end - start).total_seconds()
