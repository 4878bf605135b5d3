"""`rlvr run --on kubeflow`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from rlvr_pipelines.access_options import UI_VARIABLE, AccessOptions
from rlvr_pipelines.cli.exit import EXIT_INTERRUPTED
from rlvr_pipelines.cli.groups import JobOptions, SageMakerOptions, grouped
from rlvr_pipelines.cli.options import Command, print_json

if TYPE_CHECKING:
    from rlvr_pipelines.kubeflow.connection import Kubeflow
    from rlvr_pipelines.kubeflow.kubeflow_runs import KubeflowRun
    from rlvr_pipelines.kubeflow.kubeflow_steps import KubeflowTask
    from rlvr_trainer.recipe.schema import Recipe


@dataclass(frozen=True)
class KubeflowRunOptions:
    """The options of `rlvr run` that only a run in Kubeflow has."""

    job_place: str
    experiment: str
    run_name: str | None
    wait: bool
    no_cache: bool


_OPTIONS = (
    click.option("--job", "job_place", type=click.Choice(["pytorchjob", "trainjob", "sagemaker",
                                                         "local"]),
                 default="pytorchjob", show_default=True,
                 help="In Kubeflow: the job of a model step; local: none, its own pod."),
    click.option("--experiment", default="rlvr", show_default=True, metavar="NAME",
                 envvar="KF_PIPELINES_DEFAULT_EXPERIMENT_NAME",
                 help="In Kubeflow: the experiment of the run."),
    click.option("--run-name", metavar="NAME",
                 help="In Kubeflow: the name of the run.  [default: the recipe's and the time]"),
    click.option("--wait", is_flag=True, help="In Kubeflow: follow the run, exit with its code."),
    click.option("--no-cache", is_flag=True, help="In Kubeflow: run every step again."),
)  # fmt: skip


def kubeflow_run_options(command: Command) -> Command:
    """Add these options, as `kubeflow`."""
    return grouped(command, "kubeflow", KubeflowRunOptions, _OPTIONS)


def run_on_kubeflow(
    recipe: Recipe,
    job: JobOptions,
    sagemaker: SageMakerOptions,
    options: KubeflowRunOptions,
    access: AccessOptions,
    *,
    images: tuple[str, ...],
    secret: str,
    output: str,
) -> None:
    """Start the run and print its link; with --wait, follow it and exit with its code."""
    from rlvr_pipelines.extras import PIPELINES, require

    require(PIPELINES, "a run in Kubeflow")
    from rlvr_pipelines.kubeflow.connection import connect
    from rlvr_pipelines.kubeflow.kubeflow_runs import check_outcome, start_run
    from rlvr_pipelines.pipeline.job_parameters import job_parameters, recipe_parameter
    from rlvr_pipelines.pipeline.package import compile_package, parse_images

    package = compile_package(
        recipe, images=parse_images(images), secret=secret, use_cache=not options.no_cache
    )
    settings = sagemaker.settings(job) if options.job_place == "sagemaker" else job.settings()
    kubeflow = connect(access)
    chosen = job_parameters(
        place=options.job_place,
        # jobs of a profile run in the profile
        namespace="" if kubeflow.namespace else access.namespace,
        storage=job.storage,
        settings=settings,
    )
    name = options.run_name or f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = start_run(
        kubeflow,
        package,
        experiment=options.experiment,
        name=name,
        parameters={"recipe": recipe_parameter(recipe), **chosen},
    )
    click.echo(f"{run.name} is run {run.id}", err=True)
    click.echo(run.link, err=output == "json")
    if run.link.startswith("/"):
        click.echo(f"(below the address of Kubeflow's UI, which ${UI_VARIABLE} can name)", err=True)
    if not options.wait:
        click.echo(f"Its status: {run.command('status')}", err=True)
        if output == "json":
            print_json(run.facts())
        return
    run = _wait(kubeflow, run)
    if output == "json":
        print_json(run.facts())
    check_outcome(run)
    click.echo(f"{run.name} succeeded", err=True)


def _wait(kubeflow: Kubeflow, run: KubeflowRun) -> KubeflowRun:
    from rlvr_pipelines.kubeflow.kubeflow_runs import follow_run

    try:
        return follow_run(kubeflow, run.id, _show)
    except KeyboardInterrupt:
        click.echo(f"The run continues; to stop it: {run.command('stop')}", err=True)
        click.get_current_context().exit(EXIT_INTERRUPTED)


def _show(task: KubeflowTask) -> None:
    first, *more = task.lines()
    click.echo("\n".join([f"{time.strftime('%H:%M:%S')}  {first}", *more]), err=True)
