"""`rlvr logs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from rlvr_pipelines.access_options import Access
from rlvr_pipelines.cli.groups import access_options
from rlvr_pipelines.cli.options import debug_option

if TYPE_CHECKING:
    from rlvr_pipelines.run_name import RunName

STEPS = (
    "check", "prepare", "evaluate-base", "train", "evaluate-trained", "report", "publish", "finish",
)  # fmt: skip
TASKS = {"prepare": "prepare-data", "report": "compare-and-report"}
"""Kubeflow's names of steps that are called otherwise here."""


@click.command(short_help="Print what RUN printed.")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run or job has ended.")
@click.option("--step", type=click.Choice(STEPS), help="Of this step only.")
@access_options
@debug_option
def logs(run: str, follow: bool, step: str | None, access: Access) -> None:
    """Print what RUN printed; of a job all ranks, each line with its own.

    RUN is a run directory here, the name of a run or job in the cluster, or the id of a run in
    Kubeflow, whose steps' logs come through Kubeflow alone.

    \b
    rlvr logs runs/arithmetic -f
    rlvr logs gsm8k -f --step train
    """
    from rlvr_pipelines.run_name import parse_run

    named = parse_run(run)
    match named.where:
        case "local":
            from rlvr_pipelines.local.local_run import log_lines

            lines = log_lines(named.path, step=step or "", follow=follow)
        case "kubeflow":
            lines = _kubeflow_lines(named, access, step or "", follow)
        case "cluster":
            lines = _job_lines(named, access, step or "", follow)
    try:
        for line in lines:
            click.echo(line)
    except KeyboardInterrupt:  # the way to end -f; what is looked at goes on
        return


def _job_lines(named: RunName, access: Access, step: str, follow: bool) -> Iterator[str]:
    from rlvr_pipelines.extras import KUBERNETES, require

    require(KUBERNETES, "reading a cluster's logs")
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.cluster.cluster_runs import job_lines, jobs_of, newest_attempts
    from rlvr_trainer.errors import ConfigError

    use_context(access.context)
    jobs = newest_attempts(jobs_of(named, access), step)
    if not jobs:
        of = f" of step {step}" if step else ""
        raise ConfigError(
            f"{named.text} has no job{of}; `rlvr status {named.text}` shows what it has. Steps "
            "that are no jobs have their logs where the pipeline runs: in the UI, or in the run "
            "directory"
        )
    return job_lines(jobs, access, follow=follow)


def _kubeflow_lines(named: RunName, access: Access, step: str, follow: bool) -> Iterator[str]:
    """The steps' logs; those of a step that follows a job hold the job's lines, of all ranks."""
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.extras import PIPELINES, require

    require(PIPELINES, "looking at a run in Kubeflow")
    use_context(access.context)
    from rlvr_pipelines.kubeflow.connection import connect
    from rlvr_pipelines.kubeflow.kubeflow_steps import log_lines

    return log_lines(connect(access), named.text, step=TASKS.get(step, step), follow=follow)
