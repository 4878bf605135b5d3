"""`rlvr logs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import JobPlace, access_options, job_place_options
from rlvr_pipelines.cli.options import debug_option

if TYPE_CHECKING:
    from rlvr_components.jobs import JobSummary
    from rlvr_pipelines.run_name import RunName

STEPS = (
    "check", "prepare", "evaluate-base", "train", "evaluate-trained", "report", "publish", "finish",
)  # fmt: skip
TASKS = {"prepare": "prepare-data", "report": "compare-and-report"}
"""Step → task in Kubeflow, where the names differ."""


@click.command(short_help="Print the log of RUN.")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the run or job ends.")
@click.option("--step", type=click.Choice(STEPS), help="Print the log of this step only.")
@access_options
@job_place_options
@debug_option
def logs(run: str, follow: bool, step: str | None, access: AccessOptions, where: JobPlace) -> None:
    """Print the log of RUN; each line of a job begins with its rank or host.

    RUN is a run directory here, the name of a run or job in the cluster or on SageMaker, or the id
    of a run in Kubeflow, whose logs are read through Kubeflow alone.

    \b
    rlvr logs runs/arithmetic -f
    rlvr logs gsm8k -f --step train
    """
    from rlvr_pipelines.run_name import parse_run

    named = parse_run(run)
    match named.where:
        case "local":
            from rlvr_pipelines.local.local_run import run_log_lines

            lines = run_log_lines(named.path, step=step or "", follow=follow)
        case "kubeflow":
            lines = _kubeflow_lines(named, access, step or "", follow)
        case "cluster":
            if where.is_sagemaker:
                lines = _sagemaker_lines(named, where, step or "", follow)
            else:
                lines = _job_lines(named, access, step or "", follow)
    try:
        for line in lines:
            click.echo(line)
    except KeyboardInterrupt:  # ends -f; the run continues
        return


def _job_lines(named: RunName, access: AccessOptions, step: str, follow: bool) -> Iterator[str]:
    from rlvr_pipelines.extras import KUBERNETES, require

    require(KUBERNETES, "reading a cluster's logs")
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.cluster.cluster_runs import job_log_lines, jobs_of, newest_attempts

    use_context(access.context)
    jobs = newest_attempts(jobs_of(named, access), step)
    _check_any(named, jobs, step)
    return job_log_lines(jobs, access, follow=follow)


def _sagemaker_lines(named: RunName, where: JobPlace, step: str, follow: bool) -> Iterator[str]:
    from rlvr_pipelines.extras import S3, require

    require(S3, "reading logs on SageMaker")
    from rlvr_pipelines.cluster.cluster_runs import newest_attempts
    from rlvr_pipelines.sagemaker.sagemaker_runs import job_log_lines, jobs_of

    jobs = newest_attempts(jobs_of(named.text, where.region), step)
    _check_any(named, jobs, step)
    return job_log_lines(jobs, where.region, follow=follow)


def _check_any(named: RunName, jobs: Sequence[JobSummary], step: str) -> None:
    """Raise ConfigError if there is no job, of this step if one is named."""
    from rlvr_trainer.errors import ConfigError

    if not jobs:
        of = f" of step {step}" if step else ""
        raise ConfigError(
            f"{named.text} has no job{of}; `rlvr status {named.text}` shows its jobs. The log of a "
            "step that is not a job is where the pipeline runs: in the UI, or in the run directory"
        )


def _kubeflow_lines(
    named: RunName, access: AccessOptions, step: str, follow: bool
) -> Iterator[str]:
    """Return the lines of the steps; a step that follows a job prints the lines of all ranks."""
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.extras import PIPELINES, require

    require(PIPELINES, "reading a run in Kubeflow")
    use_context(access.context)
    from rlvr_pipelines.kubeflow.connection import connect
    from rlvr_pipelines.kubeflow.kubeflow_steps import kubeflow_log_lines

    return kubeflow_log_lines(
        connect(access), named.text, step=TASKS.get(step, step), follow=follow
    )
