"""`rlvr status`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlvr_pipelines.access_options import Access
from rlvr_pipelines.cli.groups import access_options
from rlvr_pipelines.cli.options import debug_option, output_option, print_json

if TYPE_CHECKING:
    from rlvr_components.jobs import JobSummary
    from rlvr_pipelines.local.local_run import LocalRun
    from rlvr_pipelines.run_name import RunName

Shown = tuple[Any, list[str]]
"""Facts, and lines for people."""


@click.command(short_help="Show how far RUN is, and what went wrong.")
@click.argument("run", required=False)
@access_options
@output_option
@debug_option
def status(run: str | None, access: Access, output: str) -> None:
    """Show how far RUN is, its replicas, and what went wrong.

    RUN is a run directory here, the name of a run or job in the cluster, or the id of a run in
    Kubeflow. Without it: all runs in runs/ and all jobs of the namespace.

    \b
    rlvr status
    rlvr status runs/arithmetic
    rlvr status gsm8k --namespace rlvr
    rlvr status 0b1f6d3e-6c7a-4b0e-9f57-0d5f2a9a7c11 --endpoint http://localhost:8080
    """
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.run_name import parse_run

    use_context(access.context)
    if run is None:
        facts, lines = _everything(access)
    else:
        named = parse_run(run)
        show = {"local": _local, "kubeflow": _kubeflow, "cluster": _cluster}[named.where]
        facts, lines = show(named, access)
    if output == "json":
        print_json(facts)
    else:
        click.echo("\n".join(lines))


def _everything(access: Access) -> Shown:
    from rlvr_pipelines.cluster.job_display import job_facts, list_lines

    local, jobs = _local_runs(Path("runs")), _jobs_if_any(access)
    lines = list_lines(local, jobs)
    if jobs:
        lines += ["", _kubectl(access, jobs)]
    return [run.facts() for run in local] + [job_facts(job) for job in jobs], lines


def _local_runs(root: Path) -> list[LocalRun]:
    """Those in `root`, and those of its sweeps; one that cannot be read is named on stderr."""
    from rlvr_pipelines.local.local_run import inspect_run
    from rlvr_pipelines.local.sweep import SWEEP_INFIX
    from rlvr_trainer.errors import ConfigError

    of_sweeps = root.glob(f"*{SWEEP_INFIX}*/*/recipe.json")
    runs = []
    for path in sorted([*root.glob("*/recipe.json"), *of_sweeps]):
        try:
            runs.append(inspect_run(path.parent))
        except ConfigError as error:
            click.echo(f"{path.parent} is not shown: {error}", err=True)
    return runs


def _jobs_if_any(access: Access) -> list[JobSummary]:
    """Whoever never had to do with a cluster hears nothing of one."""
    from rlvr_components.kubernetes.access import has_cluster
    from rlvr_pipelines.extras import KUBERNETES, is_installed

    asked = access.namespace or access.context
    if not asked and not (is_installed(KUBERNETES) and has_cluster()):
        return []
    from rlvr_pipelines.cluster.cluster_runs import all_jobs
    from rlvr_trainer.errors import RLVRError

    _require_kubernetes()
    try:
        return all_jobs(access)
    except RLVRError as error:
        if asked:
            raise
        click.echo(f"the cluster is not shown: {error}", err=True)
        return []


def _local(named: RunName, access: Access) -> Shown:
    from rlvr_pipelines.local.local_run import inspect_run

    run = inspect_run(named.path)
    process = f", process {run.process}" if run.process else ""
    lines = [f"{run.name}  {run.phase}{process}, in {run.run_dir.path}", *run.lines()]
    if run.cause:
        lines += ["", run.cause]
    return run.facts(), lines


def _cluster(named: RunName, access: Access) -> Shown:
    _require_kubernetes()
    from rlvr_pipelines.cluster.cluster_runs import jobs_of
    from rlvr_pipelines.cluster.job_display import job_facts, job_lines

    jobs = jobs_of(named, access)
    lines = [line for job in jobs for line in (*job_lines(job), "")]
    return [job_facts(job) for job in jobs], [*lines, _kubectl(access, jobs)]


def _kubeflow(named: RunName, access: Access) -> Shown:
    from rlvr_pipelines.extras import PIPELINES, require

    require(PIPELINES, "looking at a run in Kubeflow")
    from rlvr_pipelines.cluster.job_display import job_facts, job_lines
    from rlvr_pipelines.kubeflow.connection import connect
    from rlvr_pipelines.kubeflow.kubeflow_runs import get_run

    run = get_run(connect(access), named.text)
    lines = [f"{run.name}  {run.phase}", run.link]
    lines += [line for task in run.tasks for line in task.lines()]
    lines += ["", run.outcome()] if run.exit_code else []
    jobs = _kubeflow_jobs(named, access, run.job_namespace)
    for job in jobs:
        lines += ["", *job_lines(job)]
    return {**run.facts(), "jobs": [job_facts(job) for job in jobs]}, lines


def _kubeflow_jobs(named: RunName, access: Access, namespace: str) -> list[JobSummary]:
    """The run's jobs; what Kubeflow says of it is worth showing without them, too."""
    from rlvr_pipelines.extras import KUBERNETES, is_installed
    from rlvr_trainer.errors import RLVRError

    if not is_installed(KUBERNETES):
        return []
    from rlvr_pipelines.cluster.cluster_runs import jobs_of

    try:
        return jobs_of(named, access, namespace=namespace)
    except RLVRError as error:
        click.echo(f"its jobs are not shown: {error}", err=True)
        return []


def _kubectl(access: Access, jobs: Sequence[JobSummary]) -> str:
    """The same without rlvr."""
    from rlvr_components.jobs.cluster import CUSTOM_COLUMNS

    kinds = ",".join(sorted({f"{job.kind.lower()}s" for job in jobs}))
    options = [f"--context {access.context}"] if access.context else []
    options += [f"-n {access.namespace}"] if access.namespace else []
    command = CUSTOM_COLUMNS.replace("pytorchjobs", kinds, 1)
    return command.replace("kubectl", " ".join(["kubectl", *options]), 1)


def _require_kubernetes() -> None:
    from rlvr_pipelines.extras import KUBERNETES, require

    require(KUBERNETES, "looking into a cluster")
