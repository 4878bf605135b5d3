"""Start, inspect, follow and terminate a run in Kubeflow."""

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
from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.kubeflow.connection import Kubeflow
from rlvr_pipelines.kubeflow.kubeflow_steps import ENDED, Causes, KubeflowTask, read_steps
from rlvr_pipelines.kubeflow.versions import equals, find_uploaded
from rlvr_pipelines.pipeline.package import Package
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

POLL_S = 3.0
MAX_SILENCE_S = 300.0


@dataclass(frozen=True)
class KubeflowRun:
    """A run of the pipeline."""

    id: str
    name: str
    state: str
    link: str
    tasks: tuple[KubeflowTask, ...] = ()
    terminated: str = ""
    """The time at which the run was terminated; empty if it was not."""
    job_namespace: str = ""
    """The namespace of its jobs; empty: unknown."""
    access: AccessOptions = field(default_factory=AccessOptions)
    """The options by which the run is reached."""

    def facts(self) -> dict[str, Any]:
        """Return the run as plain data."""
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
        """True if the run has reached its final state."""
        return self.state in ENDED

    @property
    def phase(self) -> str:
        """The state in a word; KFP calls a terminated run failed."""
        if self.state == "CANCELED" or (self.terminated and self.ended):
            return "terminated"
        return self.state.lower()

    @property
    def failed(self) -> KubeflowTask | None:
        """The step that made the run fail."""
        first = first_failed([task.step for task in self.tasks])
        return next((task for task in self.tasks if task.step is first), None)

    @property
    def exit_code(self) -> int | None:
        """The exit code of `run --wait`; None while the run is active."""
        if not self.ended:
            return None
        if self.state in ("SUCCEEDED", "SKIPPED"):
            return 0
        if self.phase == "terminated":
            return EXIT_PREEMPTED
        return self._cause(self.failed).exit_code

    def outcome(self) -> str:
        """Return the cause of a failure, and what resumes the run, in a line."""
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
        """Return an `rlvr` command for this run, quoted for a shell."""
        return self.access.command(verb, self.id, *options)

    def _cause(self, task: KubeflowTask | None) -> Failure:
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
) -> KubeflowRun:
    """Run the package with these parameters in an experiment, which is created if missing.

    The run refers to the uploaded version with the same bytes, if there is one.
    Raises ConfigError if the experiment is archived or the server refuses, PlatformError.
    """
    uploaded = find_uploaded(kubeflow, package)
    pipeline: dict[str, Any] = {"pipeline_spec": package.spec}
    if uploaded is not None:
        pipeline = {
            "pipeline_version_reference": V2beta1PipelineVersionReference(
                pipeline_id=uploaded.pipeline_id,
                pipeline_version_id=uploaded.pipeline_version_id,
            )
        }
    run = V2beta1Run(
        display_name=name,
        description=package.description,
        experiment_id=_experiment_id(kubeflow, experiment),
        **pipeline,
        runtime_config=V2beta1RuntimeConfig(parameters=dict(parameters)),
    )
    created = kubeflow.call(kubeflow.runs.run_service_create_run, run=run)
    return _run(kubeflow, created, Causes(kubeflow, created.run_id))


def get_run(kubeflow: Kubeflow, run_id: str, causes: Causes | None = None) -> KubeflowRun:
    """Return the run of an id. Raises ConfigError if there is none."""
    run = kubeflow.call(kubeflow.runs.run_service_get_run, run_id=run_id)
    return _run(kubeflow, run, causes or Causes(kubeflow, run_id))


def terminate_run(kubeflow: Kubeflow, run_id: str) -> None:
    """Terminate the run, as in the UI: its steps get SIGTERM, and delete their jobs."""
    kubeflow.call(kubeflow.runs.run_service_terminate_run, run_id=run_id)


def follow_run(
    kubeflow: Kubeflow, run_id: str, show: Callable[[KubeflowTask], None]
) -> KubeflowRun:
    """Show every task whose state changes; return the run once it has ended.

    Raises PlatformError if the server does not answer for MAX_SILENCE_S; the run itself continues.
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
                    f"{error}; the run continues: `{command}` shows its status"
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


def check_outcome(run: KubeflowRun) -> None:
    """Raise JobFailed with the cause and exit code of a run that did not succeed."""
    if run.exit_code:
        more = f"; its log: {run.command('logs')}" if run.failed else ""
        raise JobFailed(run.outcome() + more, exit_code=run.exit_code)


def _experiment_id(kubeflow: Kubeflow, name: str) -> str:
    where = {"namespace": kubeflow.namespace} if kubeflow.namespace else {}
    listing = kubeflow.call(
        kubeflow.experiments.experiment_service_list_experiments, filter=equals(name), **where
    )
    for experiment in listing.experiments or ():
        if experiment.storage_state == "ARCHIVED":
            # Kubeflow would start the run, and the UI would hide it.
            raise ConfigError(
                f"experiment {name!r} is archived, and the UI would hide a run in it; restore it "
                "in the UI, or use another --experiment"
            )
        return str(experiment.experiment_id)
    created = kubeflow.call(
        kubeflow.experiments.experiment_service_create_experiment,
        experiment=V2beta1Experiment(display_name=name, namespace=kubeflow.namespace),
    )
    return str(created.experiment_id)


def _run(kubeflow: Kubeflow, run: Any, causes: Causes) -> KubeflowRun:
    state = run.state or "PENDING"
    workflow, steps = read_steps(kubeflow, run)
    namespace = workflow["metadata"].get("namespace") or ""
    return KubeflowRun(
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
    """Return when the run was terminated, unless retried since: CANCELING becomes FAILED."""
    history = [status for status in run.state_history or () if status.state not in ENDED]
    if run.state == "SUCCEEDED" or not history or history[-1].state != "CANCELING":
        return ""
    time = history[-1].update_time
    return time.strftime("%Y-%m-%d %H:%M:%S UTC") if time else "an unknown time"
