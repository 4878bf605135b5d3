"""`rlvr run`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rlvr_pipelines.cli.options import (
    JobOptions,
    access_options,
    debug_option,
    default_run_dir,
    job_options,
    load,
    output_option,
    package_options,
    print_json,
    recipe_options,
    run_dir_option,
)
from rlvr_pipelines.cli.run_kubeflow import KubeflowRun, kubeflow_run_options, run_on_kubeflow
from rlvr_pipelines.kubeflow.access import Access

if TYPE_CHECKING:
    from rlvr_pipelines.run_dir import RunDir
    from rlvr_trainer.recipe import Recipe

_HERE = ("local", "pytorchjob", "trainjob")
_CLUSTER = ("pytorchjob", "trainjob", "kubeflow")
_KUBEFLOW = ("kubeflow",)
PLACES = {
    **dict.fromkeys(("run_dir", "sweep"), _HERE),
    **dict.fromkeys((*JobOptions.__dataclass_fields__, "namespace", "context"), _CLUSTER),
    **dict.fromkeys((*KubeflowRun.__dataclass_fields__, "images", "secret", "endpoint"), _KUBEFLOW),
    **dict.fromkeys(("token_file", "cookies_file", "ca_file"), _KUBEFLOW),
}
"""Where an option means something; everywhere, if it is not here."""


@click.command()
@recipe_options
@run_dir_option
@click.option(
    "--on",
    "place",
    type=click.Choice(["local", "kubeflow", "pytorchjob", "trainjob"]),
    default="local",
    show_default=True,
    help="Where it runs. pytorchjob, trainjob: the pipeline here, its model steps in a cluster.",
)
@click.option("--sweep", metavar="A.B=V1,V2,…", help="Train once for each value of a field.")
@job_options
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
    kubeflow: KubeflowRun,
    images: tuple[str, ...],
    secret: str,
    access: Access,
    output: str,
) -> None:
    """Train RECIPE from data to report.

    The same command again continues an interrupted run.

    \b
    rlvr run arithmetic
    rlvr run gsm8k --on pytorchjob --storage s3://bucket/runs --nodes 2 --gpus 8
    rlvr run gsm8k --on kubeflow --storage s3://bucket/runs --wait
    """
    _check_options(place)
    loaded = load(recipe, overrides, seed)
    if place == "kubeflow":
        run_on_kubeflow(loaded, job, kubeflow, access, images=images, secret=secret, output=output)
        return
    from rlvr_pipelines.extras import LOCAL, require

    root = run_dir or default_run_dir(loaded)
    again = _command(recipe, overrides, seed, run_dir, sweep)
    if sweep is None:
        require(LOCAL, "a run on this machine")
        whole = _run(loaded, root, again)
        _print_run(whole, output)
        return

    from rlvr_pipelines.sweep import parse_sweep, write_sweep
    from rlvr_trainer.errors import JobFailed

    swept = parse_sweep(sweep)
    # all of them first: a value that is not valid is known before anything runs
    recipes = [load(recipe, [*overrides, swept.override(value)], seed) for value in swept.values]
    require(LOCAL, "a run on this machine")
    failures: dict[str, JobFailed] = {}
    for each, value in zip(recipes, swept.values, strict=True):
        try:
            _run(each, swept.run_dir(root, value), again)
        except JobFailed as error:  # says nothing about the other values
            failures[swept.override(value)] = error
            click.echo(f"{swept.override(value)}: {error}", err=True)
    _print_sweep(write_sweep(root, swept), root, output)
    if failures:
        override, first = next(iter(failures.items()))
        raise JobFailed(
            f"{len(failures)} of {len(swept.values)} values failed, first {override}; the causes "
            f"stand above. To try them again: {again}",
            exit_code=first.exit_code,
        )


def _check_options(place: str) -> None:
    """Refuse an option that would be without effect, since somebody meant something by it."""
    context = click.get_current_context()
    for option in context.command.params:
        places = PLACES.get(option.name or "", ())
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if places and given and place not in places:
            raise click.UsageError(
                f"{option.opts[0]} is for --on {' and '.join(places)}, not for --on {place}"
            )


def _run(recipe: Recipe, path: Path, again: str) -> RunDir:
    from rlvr_pipelines.local import Interrupted, run_pipeline

    try:
        return run_pipeline(recipe, path)
    except Interrupted as error:
        click.echo(f"{error}; nothing is left running. To go on: {again}", err=True)
        click.get_current_context().exit(error.exit_code)


def _print_run(run_dir: RunDir, output: str) -> None:
    from rlvr_pipelines.results import print_evaluation

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
    from rlvr_pipelines.results import print_sweep

    if output == "json":
        print_json({"run_dir": str(root), "report": str(root / "report.html"), "runs": runs})
        return
    results = [(run["value"], run["evaluation"]) for run in runs]
    print_sweep(runs[0]["field"], results, sys.stdout)
    click.echo(f"Report: {root / 'report.html'}")


def _command(
    recipe: str,
    overrides: Sequence[str],
    seed: int | None,
    run_dir: Path | None,
    sweep: str | None,
) -> str:
    """The command that goes on with this run."""
    words = ["rlvr", "run", recipe]
    for override in overrides:
        words += ["--set", override]
    words += ["--seed", str(seed)] if seed is not None else []
    words += ["--run-dir", str(run_dir)] if run_dir else []
    words += ["--sweep", sweep] if sweep else []
    return shlex.join(words)
