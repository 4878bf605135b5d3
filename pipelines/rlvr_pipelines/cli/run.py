"""`rlvr run`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlvr_pipelines.cli.options import (
    debug_option,
    default_run_dir,
    load,
    output_option,
    print_json,
    recipe_options,
    run_dir_option,
)

if TYPE_CHECKING:
    from rlvr_pipelines.run_dir import RunDir
    from rlvr_trainer.recipe import Recipe


@click.command()
@recipe_options
@run_dir_option
@click.option(
    "--on",
    "place",
    type=click.Choice(["local"]),
    default="local",
    show_default=True,
    help="Where it runs.",
)
@click.option("--sweep", metavar="A.B=V1,V2,…", help="Train once for each value of a field.")
@output_option
@debug_option
def run(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
    place: str,
    sweep: str | None,
    output: str,
) -> None:
    """Train RECIPE from data to report.

    The same command again continues an interrupted run.
    """
    from rlvr_pipelines.extras import LOCAL, require

    loaded = load(recipe, overrides, seed)
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
