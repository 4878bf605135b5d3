"""A run in Kubeflow: start it, see how far it is, follow it to its end, terminate it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp_server_api import (
    V2beta1Experiment,
    V2beta1PipelineVersionReference,
    V2beta1Run,
    V2beta1RuntimeConfig,
)

from rlvr_components.workflow import NEW_RUN, RETRY, Failure, first_failed
from rlvr_pipelines.access_options import Access
from rlvr_pipelines.kubeflow.connection import Kubeflow
from rlvr_pipelines.kubeflow.kubeflow_steps import ENDED, Causes, Task, read_steps
from rlvr_pipelines.kubeflow.versions import equals, find_uploaded
from rlvr_pipelines.pipeline.package import Package
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

POLL_S = 3.0
MAX_SILENCE_S = 300.0


@dataclass(frozen=True)
class Run:
    """A run of the pipeline."""

    id: str
    name: str
    state: str
    link: str
    tasks: tuple[Task, ...] = ()
    terminated: str = ""
    """When somebody terminated it; empty for a run that was not."""
    job_namespace: str = ""
    """Where its jobs are; empty: not known."""
    access: Access = field(default_factory=Access)
    """How it was reached."""

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        failed = self.failed
        return {
            "run": self.id,
            "kind": "kubeflow",
            "name": self.name,
            "state": self.state,
            "terminated": self.terminated,
            "error": str(self._cause(failed)) if failed else "",
            "exit_code": self.exit_code,
            "link": self.link,
            "tasks": [task.facts() for task in self.tasks],
        }

    @property
    def ended(self) -> bool:
        """Whether it will change no more."""
        return self.state in ENDED

    @property
    def phase(self) -> str:
        """Its state in a word; KFP itself calls a terminated run failed."""
        if self.state == "CANCELED" or (self.terminated and self.ended):
            return "terminated"
        return self.state.lower()

    @property
    def failed(self) -> Task | None:
        """The step that made the run fail."""
        first = first_failed([task.step for task in self.tasks])
        return next((task for task in self.tasks if task.step is first), None)

    @property
    def exit_code(self) -> int | None:
        """With which `run --wait` ends; None while it runs."""
        if not self.ended:
            return None
        if self.state in ("SUCCEEDED", "SKIPPED"):
            return 0
        if self.phase == "terminated":
            return EXIT_PREEMPTED
        return self._cause(self.failed).exit_code

    def outcome(self) -> str:
        """Why it did not succeed and what continues it, in a line."""
        if self.phase == "terminated":
            when = f" at {self.terminated}" if self.terminated else ""
            return (
                f"run {self.name} was terminated{when} (exit code {EXIT_PREEMPTED}); {RETRY} from "
                f"the last checkpoint ({self.link}), {NEW_RUN}"
            )
        task, cause = self.failed, self._cause(self.failed)
        attempts = len(task.step.attempts) if task else 0
        attempt = f", attempt {attempts}" if attempts > 1 else ""
        where = f" at {task.name}{attempt}" if task else ""
        return f"run {self.name} failed{where}: {cause}; {cause.remedy}"

    def command(self, verb: str, *options: str) -> str:
        """A command about this run that works as it stands."""
        return self.access.command(verb, self.id, *options)

    def _cause(self, task: Task | None) -> Failure:
        if task and task.failure:
            return task.failure
        return Failure("KFP gives no cause", JobFailed.exit_code)


def start_run(
    kubeflow: Kubeflow,
    package: Package,
    *,
    experiment: str,
    name: str,
    parameters: Mapping[str, Any],
) -> Run:
    """Run the package with these parameters; the experiment is made where there is none.

    The run belongs to the uploaded version where there is one with the same bytes.
    Raises ConfigError for an archived experiment or what the server refuses, PlatformError.
    """
    uploaded = find_uploaded(kubeflow, package)
    what: dict[str, Any] = {"pipeline_spec": package.spec}
    if uploaded is not None:
        what = {
            "pipeline_version_reference": V2beta1PipelineVersionReference(
                pipeline_id=uploaded.pipeline_id,
                pipeline_version_id=uploaded.pipeline_version_id,
            )
        }
    run = V2beta1Run(
        display_name=name,
        description=package.description,
        experiment_id=_experiment_id(kubeflow, experiment),
        **what,
        runtime_config=V2beta1RuntimeConfig(parameters=dict(parameters)),
    )
    created = kubeflow.call(kubeflow.runs.run_service_create_run, run=run)
    return _run(kubeflow, created, Causes(kubeflow, created.run_id))


def get_run(kubeflow: Kubeflow, run_id: str, causes: Causes | None = None) -> Run:
    """How far the run is. Raises ConfigError when there is none of that id."""
    run = kubeflow.call(kubeflow.runs.run_service_get_run, run_id=run_id)
    return _run(kubeflow, run, causes or Causes(kubeflow, run_id))


def terminate_run(kubeflow: Kubeflow, run_id: str) -> None:
    """As Terminate in the UI: the steps get SIGTERM, and the training job is deleted by its own."""
    kubeflow.call(kubeflow.runs.run_service_terminate_run, run_id=run_id)


def follow_run(kubeflow: Kubeflow, run_id: str, show: Callable[[Task], None]) -> Run:
    """Show each task when its state changes; returns the run once it has ended.

    A server that does not answer for a few minutes is waited for, then PlatformError: the run
    itself goes on.
    """
    shown: dict[str, list[str]] = {}
    causes, heard = Causes(kubeflow, run_id), time.monotonic()
    while True:
        try:
            run = get_run(kubeflow, run_id, causes)
        except PlatformError as error:
            if time.monotonic() - heard > MAX_SILENCE_S:
                command = kubeflow.access.command("status", run_id)
                raise PlatformError(
                    f"{error}; the run goes on: `{command}` tells how far it is"
                ) from None
            time.sleep(POLL_S)
            continue
        heard = time.monotonic()
        for task in run.tasks:
            if task.state != "PENDING" and shown.get(task.name) != task.lines():
                shown[task.name] = task.lines()
                show(task)
        if run.ended:
            return run
        time.sleep(POLL_S)


def check_outcome(run: Run) -> None:
    """Raise JobFailed unless the run succeeded: the cause and the exit code of `--wait`."""
    if run.exit_code:
        more = f"; its log: {run.command('logs')}" if run.failed else ""
        raise JobFailed(run.outcome() + more, exit_code=run.exit_code)


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


def _run(kubeflow: Kubeflow, run: Any, causes: Causes) -> Run:
    state = run.state or "PENDING"
    workflow, steps = read_steps(kubeflow, run)
    namespace = workflow["metadata"].get("namespace") or ""
    return Run(
        id=run.run_id,
        name=run.display_name,
        state=state,
        link=kubeflow.link(f"runs/details/{run.run_id}"),
        tasks=tuple(causes.task(step, namespace) for step in steps),
        terminated=_terminated(run),
        job_namespace=_job_namespace(run) or namespace or kubeflow.namespace or "",
        access=kubeflow.access,
    )


def _job_namespace(run: Any) -> str:
    parameters = (run.runtime_config.parameters if run.runtime_config else None) or {}
    return str(parameters.get("job_namespace") or "")


def _terminated(run: Any) -> str:
    """When the run was terminated, unless it was retried since: KFP sets FAILED after CANCELING."""
    history = [status for status in run.state_history or () if status.state not in ENDED]
    if run.state == "SUCCEEDED" or not history or history[-1].state != "CANCELING":
        return ""
    time = history[-1].update_time
    return time.strftime("%Y-%m-%d %H:%M:%S UTC") if time else "an unknown time"
