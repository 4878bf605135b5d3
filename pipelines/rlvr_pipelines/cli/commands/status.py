"""`rlvr status`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import JobPlace, access_options, job_place_options
from rlvr_pipelines.cli.options import debug_option, output_option, print_json

if TYPE_CHECKING:
    from rlvr_components.jobs import JobSummary
    from rlvr_pipelines.local.local_run import LocalRun
    from rlvr_pipelines.run_name import RunName

Shown = tuple[Any, list[str]]
"""Plain data, and lines of text."""


@click.command(short_help="Show the status of RUN, and the cause of a failure.")
@click.argument("run", required=False)
@access_options
@job_place_options
@output_option
@debug_option
def status(run: str | None, access: AccessOptions, where: JobPlace, output: str) -> None:
    """Show the steps and replicas of RUN, and why they are pending or failed.

    RUN is a run directory here, the name of a run or job in the cluster or on SageMaker, or the id
    of a run in Kubeflow. Without RUN, list all runs in runs/ and all jobs of the namespace, or with
    --on sagemaker those of the region.

    \b
    rlvr status
    rlvr status runs/arithmetic
    rlvr status gsm8k --namespace rlvr
    rlvr status gsm8k --on sagemaker
    rlvr status 0b1f6d3e-6c7a-4b0e-9f57-0d5f2a9a7c11 --endpoint http://localhost:8080
    """
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.run_name import parse_run

    use_context(access.context)
    if run is None:
        facts, lines = _everything(access, where)
    else:
        named = parse_run(run)
        if named.where != "local" and _is_on_sagemaker(named, where):
            facts, lines = _sagemaker(named, where)
        else:
            show = {"local": _local, "kubeflow": _kubeflow, "cluster": _cluster}[named.where]
            facts, lines = show(named, access)
    if output == "json":
        print_json(facts)
    else:
        click.echo("\n".join(lines))


def _everything(access: AccessOptions, where: JobPlace) -> Shown:
    from rlvr_pipelines.cluster.job_display import job_facts, list_lines

    on_sagemaker = where.is_said_to_be_sagemaker
    local = _local_runs(Path("runs"))
    jobs = _all_on_sagemaker(where) if on_sagemaker else _jobs_if_any(access)
    lines = list_lines(local, jobs)
    if jobs and not on_sagemaker:
        lines += ["", _kubectl(access, jobs)]
    return [run.facts() for run in local] + [job_facts(job) for job in jobs], lines


def _local_runs(root: Path) -> list[LocalRun]:
    """Return the runs in `root` and in its sweeps; print a note for one that cannot be read."""
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


def _jobs_if_any(access: AccessOptions) -> list[JobSummary]:
    """Return all jobs; none, without a word, where no cluster is configured."""
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


def _all_on_sagemaker(where: JobPlace) -> list[JobSummary]:
    _require_boto3()
    from rlvr_pipelines.sagemaker.sagemaker_runs import all_jobs

    return all_jobs(where.region)


def _is_on_sagemaker(named: RunName, where: JobPlace) -> bool:
    """Return True if the run's jobs are on SageMaker; a Kubeflow id only if that is said."""
    return where.is_sagemaker if named.where == "cluster" else where.is_said_to_be_sagemaker


def _sagemaker(named: RunName, where: JobPlace) -> Shown:
    _require_boto3()
    from rlvr_pipelines.cluster.job_display import job_facts, job_lines
    from rlvr_pipelines.sagemaker.sagemaker_runs import jobs_of

    jobs = jobs_of(named.text, where.region)
    return [job_facts(job) for job in jobs], [line for job in jobs for line in job_lines(job)]


def _local(named: RunName, access: AccessOptions) -> Shown:
    from rlvr_pipelines.local.local_run import inspect_run

    run = inspect_run(named.path)
    process = f", process {run.process}" if run.process else ""
    lines = [f"{run.name}  {run.phase}{process}, in {run.run_dir.path}", *run.lines()]
    if run.cause:
        lines += ["", run.cause]
    return run.facts(), lines


def _cluster(named: RunName, access: AccessOptions) -> Shown:
    _require_kubernetes()
    from rlvr_pipelines.cluster.cluster_runs import jobs_of
    from rlvr_pipelines.cluster.job_display import job_facts, job_lines

    jobs = jobs_of(named, access)
    lines = [line for job in jobs for line in (*job_lines(job), "")]
    return [job_facts(job) for job in jobs], [*lines, _kubectl(access, jobs)]


def _kubeflow(named: RunName, access: AccessOptions) -> Shown:
    from rlvr_pipelines.extras import PIPELINES, require

    require(PIPELINES, "reading a run in Kubeflow")
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


def _kubeflow_jobs(named: RunName, access: AccessOptions, namespace: str) -> list[JobSummary]:
    """Return the run's jobs; print a note if they cannot be read."""
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


def _kubectl(access: AccessOptions, jobs: Sequence[JobSummary]) -> str:
    """Return the command that lists the jobs with kubectl."""
    from rlvr_components.jobs.cluster import CUSTOM_COLUMNS

    kinds = ",".join(sorted({f"{job.kind.lower()}s" for job in jobs}))
    options = [f"--context {access.context}"] if access.context else []
    options += [f"-n {access.namespace}"] if access.namespace else []
    command = CUSTOM_COLUMNS.replace("pytorchjobs", kinds, 1)
    return command.replace("kubectl", " ".join(["kubectl", *options]), 1)


def _require_boto3() -> None:
    from rlvr_pipelines.extras import S3, require

    require(S3, "reading jobs on SageMaker")


def _require_kubernetes() -> None:
    from rlvr_pipelines.extras import KUBERNETES, require

    require(KUBERNETES, "reading a cluster's jobs")
