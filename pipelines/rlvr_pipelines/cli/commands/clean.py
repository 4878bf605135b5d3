"""`rlvr clean`."""

from __future__ import annotations

import re

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import JobPlace, cluster_options, job_place_options
from rlvr_pipelines.cli.options import debug_option, output_option, print_json

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def _parse_age(ctx: click.Context, option: click.Parameter, value: str | None) -> float:
    """Return the seconds of `90m`, `12h` or `7d`."""
    if value is None:
        return 0.0
    match = re.fullmatch(r"(\d+)([smhdw])", value)
    if not match:
        raise click.BadParameter(f"{value!r} is not an age; write 90m, 12h or 7d")
    return float(match[1]) * SECONDS[match[2]]


@click.command(short_help="Delete the jobs that have ended.")
@click.argument("run", required=False)
@click.option(
    "--older-than",
    "older_than_s",
    callback=_parse_age,
    metavar="AGE",
    help="Only jobs that are older than this: 90m, 12h, 7d.",
)
@click.option(
    "--with-run-dir",
    is_flag=True,
    help="On SageMaker: delete also the run directories in S3, with their checkpoints.",
)
@click.option("--dry-run", is_flag=True, help="Print the jobs without deleting them.")
@cluster_options
@job_place_options
@output_option
@debug_option
def clean(
    run: str | None,
    older_than_s: float,
    with_run_dir: bool,
    dry_run: bool,
    access: AccessOptions,
    where: JobPlace,
    output: str,
) -> None:
    """Delete the jobs that have ended, of RUN or of the namespace.

    RUN is the name of a run or job in the cluster or on SageMaker, or the id of a run in Kubeflow.
    Live jobs and run directories stay. On SageMaker the log streams are deleted too.

    \b
    rlvr clean --older-than 7d --dry-run
    rlvr clean gsm8k --on sagemaker --with-run-dir --dry-run
    """
    if where.is_said_to_be_sagemaker:
        _clean_sagemaker(run or "", where, older_than_s, with_run_dir, dry_run, output)
        return
    if with_run_dir:
        raise click.UsageError("--with-run-dir is for --on sagemaker; delete other folders by hand")
    from rlvr_pipelines.extras import KUBERNETES, require

    require(KUBERNETES, "cleaning up a cluster")
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.cluster.cluster_runs import all_jobs, clean_jobs, jobs_of
    from rlvr_pipelines.run_name import parse_run
    from rlvr_trainer.errors import ConfigError

    use_context(access.context)
    named = parse_run(run) if run else None
    if named and named.where == "local":
        raise ConfigError(
            f"{run} is a run directory, which has no jobs to delete; `rm -r {run}` deletes it with "
            "its checkpoints"
        )
    jobs = jobs_of(named, access) if named else all_jobs(access)
    cleaned = clean_jobs(jobs, access, older_than_s=older_than_s, dry_run=dry_run)
    if output == "json":
        print_json({"dry_run": dry_run, "jobs": [job.name for job in cleaned]})
        return
    for job in cleaned:
        click.echo(f"{job.name}  {job.phase}  {'would be deleted' if dry_run else 'deleted'}")
    if not cleaned:
        click.echo("no ended job is old enough" if older_than_s else "no job has ended")


def _clean_sagemaker(
    run: str, where: JobPlace, older_than_s: float, with_run_dir: bool, dry_run: bool, output: str
) -> None:
    from rlvr_pipelines.extras import S3, require

    require(S3, "cleaning up SageMaker")
    from rlvr_pipelines.sagemaker.sagemaker_runs import all_jobs, clean_jobs, jobs_of

    jobs = jobs_of(run, where.region) if run else all_jobs(where.region)
    cleaned = clean_jobs(
        jobs,
        where.region,
        older_than_s=older_than_s,
        dry_run=dry_run,
        with_run_dirs=with_run_dir,
    )
    if output == "json":
        print_json({"dry_run": dry_run, "with_run_dirs": with_run_dir, **cleaned.facts()})
        return
    verb = "would be deleted" if dry_run else "deleted"
    for job in cleaned.jobs:
        click.echo(f"{job.name}  {job.phase}  {verb}")
    for stream in cleaned.streams:
        click.echo(f"{stream.name}  log stream  {verb}")
    for folder in cleaned.run_dirs:
        size = f"{folder.num_files} files, {folder.num_bytes / 2**20:.1f} MiB"
        fate = verb if with_run_dir else "stays; --with-run-dir deletes it"
        click.echo(f"{folder.name}  {size}  {fate}")
    if not cleaned.jobs:
        click.echo("no ended job is old enough" if older_than_s else "no job has ended")
