"""Options that several commands share."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from rlvr_pipelines.cli.exit import DEBUG

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])


def _note_debug(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    ctx.meta[DEBUG] = value


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_note_debug,
    help="Show the traceback of an error.",
)
output_option = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The format of the output.",
)
run_dir_option = click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The run directory.  [default: runs/NAME]",
)
run_dir_argument = click.argument(
    "run_dir", type=click.Path(path_type=Path, file_okay=False), metavar="RUN_DIR"
)


def package_options(command: Command) -> Command:
    """Add --image and --secret, which go into a compiled pipeline."""
    for decorate in (
        click.option(
            "--secret",
            default="",
            metavar="NAME",
            help="A Secret whose keys become the steps' environment, such as storage credentials.",
        ),
        click.option(
            "--image",
            "images",
            multiple=True,
            metavar="NAME=REF",
            help="Replace an image of the steps, `trainer` or `components`; may be repeated.",
        ),
    ):
        command = decorate(command)
    return command


def recipe_options(command: Command) -> Command:
    """Add RECIPE, --set and --seed."""
    for decorate in (
        click.option("--seed", type=int, metavar="N", help="The same as --set seed=N."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="A.B=C",
            help="Change a field of the recipe; may be repeated.",
        ),
        click.argument("recipe"),
    ):
        command = decorate(command)
    return command


def command_again() -> str:
    """Return the command line of the current command."""
    context = click.get_current_context()
    words = ["rlvr", *context.command_path.split()[1:]]
    for param in context.command.params:
        value: Any = context.params.get(param.name or "")
        if isinstance(param, click.Argument):
            words.append(str(value))
        elif context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            flag = isinstance(param, click.Option) and param.is_flag
            for argument in value if param.multiple else (value,):
                words += [param.opts[0]] if flag else [param.opts[0], str(argument)]
    return shlex.join(words)


def load(source: str, overrides: Iterable[str], seed: int | None) -> Recipe:
    """Load a recipe with its overrides. Raises ConfigError."""
    from rlvr_trainer.recipe.reader import load_recipe

    seeds = [] if seed is None else [f"seed={seed}"]
    return load_recipe(source, [*overrides, *seeds])


def note_files(recipe: Recipe, *, data: bool = True) -> None:
    """Print a note for each file of this machine, which pods need too; `data`: for rows too."""
    for name in files_of_this_machine(recipe, data=data):
        click.echo(
            f"note: {name} is on this machine; pods need it at the same path, in their image or on "
            "a volume",
            err=True,
        )


def files_of_this_machine(recipe: Recipe, *, data: bool) -> list[str]:
    """Return the files and folders here that the recipe names; with `data`, its rows too."""
    from rlvr_trainer.recipe.row_source import local_files

    functions = (reward.function for reward in recipe.user_functions.values())
    code = (recipe.task, *functions)
    names = [
        recipe.model.name,
        recipe.prompt.chat_template,
        *(spec.rpartition(":")[0] for spec in code),
    ]
    rows = [recipe.data.train, recipe.data.test] if data else []
    here = {name for name in names if _exists(name)}
    return sorted(here | {source for source in rows if local_files(source)})


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def default_run_dir(recipe: Recipe, suffix: str = "") -> Path:
    """Return `runs/NAME`."""
    return Path("runs", recipe.name + suffix)


def print_json(facts: Any) -> None:
    """Print facts as JSON on standard output."""
    json.dump(facts, sys.stdout, indent=2, ensure_ascii=False, default=list)
    print()
