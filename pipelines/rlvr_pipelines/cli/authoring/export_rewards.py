"""`rlvr export`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from rlvr_pipelines.cli.options import (
    debug_option,
    load,
    output_option,
    print_json,
    recipe_options,
)

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe
    from rlvr_trainer.tasks import Row

ZIP = ".zip"


@click.group(short_help="Write what other systems use of a recipe.")
@debug_option
def export() -> None:
    """Write what other systems use of a recipe."""


@export.command("lambda", short_help="Write the rewards of RECIPE as a Lambda function.")
@recipe_options
@click.option(
    "--out",
    "out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|FILE.zip",
    help="The folder or zip to write.",
)
@click.option(
    "--contract",
    type=click.Choice(["open-weights", "nova"]),
    default="open-weights",
    show_default=True,
    help="The models that SageMaker trains with it, whose calls differ.",
)
@click.option(
    "--with",
    "packages",
    multiple=True,
    metavar="PACKAGE",
    help="Also copy this installed package, which your rewards import; may be repeated.",
)
@output_option
@debug_option
def export_lambda(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    out: Path,
    contract: Literal["open-weights", "nova"],
    packages: tuple[str, ...],
    output: str,
) -> None:
    """Write the rewards of RECIPE as the reward function of SageMaker's serverless RLVR.

    The folder is tried before it is kept: alone, it must score gold, wrong and empty completions
    of the recipe's rows as the recipe does.

    \b
    rlvr export lambda gsm8k --out reward.zip
    aws lambda create-function --function-name rlvr-gsm8k --handler handler.lambda_handler …
    """
    from rlvr_trainer.lambda_export.bundle import runtime, write_bundle, write_zip
    from rlvr_trainer.lambda_export.bundle_trial import try_bundle

    python, architecture = runtime()
    loaded = load(recipe, overrides, seed)
    _check_free(out)
    rows = _rows(loaded)
    with tempfile.TemporaryDirectory(prefix="rlvr-lambda-") as temporary:
        folder = Path(temporary, "lambda")
        write_bundle(loaded, folder, contract=contract, packages=packages)
        num_tried = try_bundle(loaded, folder, rows)
        if out.suffix == ZIP:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_zip(folder, out)
        else:
            _move(folder, out)
    facts = {
        "out": str(out),
        "handler": "handler.lambda_handler",
        "runtime": python,
        "architecture": architecture,
        "contract": contract,
        "completions_tried": num_tried,
    }
    _print(facts, output)


def _check_free(out: Path) -> None:
    from rlvr_trainer.errors import ConfigError

    if out.exists() and (out.suffix == ZIP or not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists; name another one, or remove it")


def _rows(recipe: Recipe) -> Sequence[Row]:
    """Return the recipe's test rows, or none if they are not on this machine."""
    from rlvr_pipelines.pipeline.run_plan import REMOTE_SCHEMES
    from rlvr_trainer.data import load_rows, prepare

    if any(source.startswith(REMOTE_SCHEMES) for source in (recipe.data.train, recipe.data.test)):
        return ()
    with tempfile.TemporaryDirectory() as folder:
        prepare(recipe, Path(folder, "data"), count_tokens=lambda text: 0)
        return load_rows(Path(folder, "data"), "test")


def _move(folder: Path, out: Path) -> None:
    import shutil

    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, out, dirs_exist_ok=True)


def _print(facts: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(facts)
        return
    click.echo(f"Lambda: {facts['out']}")
    click.echo(
        f"handler {facts['handler']}, runtime {facts['runtime']}, architecture "
        f"{facts['architecture']}, contract {facts['contract']}"
    )
    if facts["completions_tried"]:
        click.echo(f"It scores {facts['completions_tried']} completions as the recipe does.")
    else:
        click.echo("The rows are not on this machine, so no completion was tried.")
