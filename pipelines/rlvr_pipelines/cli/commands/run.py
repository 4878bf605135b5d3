"""`rlvr run`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import (
    COST_PLACES,
    CostOptions,
    JobOptions,
    SageMakerOptions,
    access_options,
    check_places,
    cost_options,
    job_options,
    require_storage,
    sagemaker_options,
)
from rlvr_pipelines.cli.options import (
    command_again,
    debug_option,
    default_run_dir,
    load,
    note_files,
    output_option,
    package_options,
    print_json,
    recipe_options,
    run_dir_option,
)
from rlvr_pipelines.cli.run_kubeflow import (
    KubeflowRunOptions,
    kubeflow_run_options,
    run_on_kubeflow,
)

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe
    from rlvr_trainer.run_dir.layout import RunDir

_HERE = ("local", "pytorchjob", "trainjob", "sagemaker")
_CLUSTER = ("pytorchjob", "trainjob", "kubeflow")
_KUBEFLOW = ("kubeflow",)
_SAGEMAKER = ("sagemaker", "kubeflow")
PLACES = {
    **dict.fromkeys(("run_dir", "sweep"), _HERE),
    **dict.fromkeys((*JobOptions.__dataclass_fields__, "namespace", "context"), _CLUSTER),
    **dict.fromkeys(("storage", "num_nodes"), (*_CLUSTER, "sagemaker")),
    **dict.fromkeys(SageMakerOptions.__dataclass_fields__, _SAGEMAKER),
    **COST_PLACES,
    **dict.fromkeys(
        (*KubeflowRunOptions.__dataclass_fields__, "images", "secret", "endpoint"), _KUBEFLOW
    ),
    **dict.fromkeys(("token_file", "cookies_file", "ca_file"), _KUBEFLOW),
}
"""Option → the places where it has an effect; an option that is not listed has one everywhere."""


@click.command()
@recipe_options
@run_dir_option
@click.option(
    "--on",
    "place",
    type=click.Choice(["local", "kubeflow", "pytorchjob", "trainjob", "sagemaker"]),
    default="local",
    show_default=True,
    help="Where to run. pytorchjob, trainjob, sagemaker: pipeline here, model steps there.",
)
@click.option("--sweep", metavar="A.B=V1,V2,…", help="Train once for every value of a field.")
@job_options
@sagemaker_options
@cost_options
@kubeflow_run_options
@package_options
@access_options
@output_option
@debug_option
def run(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
    place: str,
    sweep: str | None,
    job: JobOptions,
    sagemaker: SageMakerOptions,
    cost: CostOptions,
    kubeflow: KubeflowRunOptions,
    images: tuple[str, ...],
    secret: str,
    access: AccessOptions,
    output: str,
) -> None:
    """Train RECIPE from data to report.

    The same command again resumes an interrupted run. In Kubeflow it starts a new run, which trains
    from the beginning; there, KFP's Retry resumes a run.

    \b
    rlvr run arithmetic
    rlvr run gsm8k --on pytorchjob --storage s3://bucket/runs --nodes 2 --gpus 8
    rlvr run gsm8k --on sagemaker --storage s3://bucket/runs --sagemaker settings.yaml
    rlvr run gsm8k --on kubeflow --storage s3://bucket/runs --wait
    """
    check_places(place, PLACES)
    loaded = load(recipe, overrides, seed)
    if place != "local":
        note_files(loaded, data=place == "kubeflow")
    if place == "kubeflow":
        run_on_kubeflow(
            loaded, job, sagemaker, kubeflow, access, images=images, secret=secret, output=output
        )
        return
    arguments = _arguments(place, job, sagemaker, access)
    if sweep is None:
        root = run_dir or default_run_dir(loaded)
        _require(place, job.storage)
        arguments = _checked(loaded, arguments, cost)
        _print_run(_run(loaded, root, arguments), output)
        return

    from rlvr_pipelines.local.sweep import SWEEP_INFIX, parse_sweep, write_sweep
    from rlvr_trainer.errors import JobFailed, RLVRError

    swept = parse_sweep(sweep)
    if seed is not None and swept.field == "seed":
        raise click.UsageError("--seed and --sweep both set the seed; leave --seed out")
    root = run_dir or default_run_dir(loaded, f"{SWEEP_INFIX}{swept.field}")
    # all values are loaded and checked before the first one runs
    recipes = [load(recipe, [*overrides, swept.override(value)], seed) for value in swept.values]
    _require(place, job.storage)
    checked = [_checked(variant, arguments, cost) for variant in recipes]
    failures: dict[str, RLVRError] = {}
    for variant, own, value in zip(recipes, checked, swept.values, strict=True):
        try:
            _run(variant, swept.run_dir(root, value), own)
        except RLVRError as error:  # the other values may succeed
            failures[swept.override(value)] = error
            click.echo(f"{swept.override(value)}: {error}", err=True)
    _print_sweep(write_sweep(root, swept), root, output)
    if failures:
        override, first = next(iter(failures.items()))
        raise JobFailed(
            f"{len(failures)} of {len(swept.values)} values failed, first {override}; the causes "
            f"are above. To run them again: {command_again()}",
            exit_code=first.exit_code,
        )


def _arguments(
    place: str, job: JobOptions, sagemaker: SageMakerOptions, access: AccessOptions
) -> dict[str, Any]:
    """Return the pipeline's parameters other than the recipe."""
    if place == "local":
        return {}
    from rlvr_components.kubernetes.access import use_context
    from rlvr_pipelines.pipeline.job_parameters import job_parameters

    use_context(access.context)
    return job_parameters(
        place=place,
        namespace=access.namespace,
        storage=require_storage(place, job.storage),
        settings=sagemaker.settings(job) if place == "sagemaker" else job.settings(),
    )


def _require(place: str, storage: str) -> None:
    from rlvr_pipelines.extras import KUBERNETES, LOCAL, S3, require

    require(LOCAL, "a run on this machine")
    if place == "sagemaker":
        require(S3, "a run on SageMaker")
    elif place != "local":
        require(KUBERNETES, f"a run on {place}")
    if storage.startswith("s3://"):
        require(S3, storage)


def _checked(recipe: Recipe, arguments: dict[str, Any], cost: CostOptions) -> dict[str, Any]:
    """Return the parameters, with the time that --max-cost-usd leaves.

    Raises ConfigError if the model or the cluster's settings do not fit the recipe, or the run is
    estimated to cost more than that.
    """
    from rlvr_trainer.models.fit import check_local_model

    check_local_model(recipe)
    if not arguments:
        return arguments
    from rlvr_components.preflight.form import Form, resolve_sagemaker
    from rlvr_pipelines.cluster.job_plan import platform_of
    from rlvr_trainer.recipe.batch import batch_of

    form = {name: value for name, value in arguments.items() if name != "storage_uri"}
    chosen = Form(recipe={}, **form)
    is_sagemaker = chosen.job_place == "sagemaker"
    platform = resolve_sagemaker(chosen) if is_sagemaker else platform_of(chosen)
    batch_of(recipe, platform.world_size)
    if cost.max_cost_usd is None:
        return arguments
    from rlvr_pipelines.pipeline.run_cost import time_limits

    limits = time_limits(recipe, platform, cost.instance_type, cost.max_cost_usd)
    field = "job_sagemaker" if is_sagemaker else "job_platform"
    settings = {**json.loads(arguments.get(field) or "{}"), **limits}
    return {**arguments, field: json.dumps(settings, sort_keys=True)}


def _run(recipe: Recipe, path: Path, arguments: dict[str, Any]) -> RunDir:
    from rlvr_pipelines.local.runner import Interrupted, run_pipeline

    try:
        return run_pipeline(recipe, path, arguments=arguments)
    except Interrupted as error:
        click.echo(f"{error}; nothing is left running. To resume: {command_again()}", err=True)
        click.get_current_context().exit(error.exit_code)


def _print_run(run_dir: RunDir, output: str) -> None:
    from rlvr_pipelines.local.results import print_evaluation

    evaluation = json.loads(run_dir.evaluation.read_text("utf-8"))
    if output == "json":
        print_json(
            {
                "run_dir": str(run_dir.path),
                "report": str(run_dir.report),
                "adapter": str(run_dir.adapter),
                "samples": str(run_dir.samples),
                "evaluation": evaluation,
            }
        )
        return
    print_evaluation(evaluation, sys.stdout)
    click.echo(f"Report: {run_dir.report}")


def _print_sweep(runs: Sequence[dict[str, Any]], root: Path, output: str) -> None:
    from rlvr_pipelines.local.results import print_sweep
    from rlvr_trainer.run_dir.layout import RunDir

    report = RunDir(root).report
    if output == "json":
        print_json({"run_dir": str(root), "report": str(report), "runs": runs})
        return
    print_sweep(runs, sys.stdout)
    click.echo(f"Report: {report}")
