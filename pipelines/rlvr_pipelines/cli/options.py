"""The options that several commands share."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from rlvr_pipelines.cli.errors import DEBUG
from rlvr_pipelines.kubeflow.access import (
    COOKIES_VARIABLE,
    ENDPOINT_VARIABLE,
    TOKEN_PATH_VARIABLE,
    TOKEN_VARIABLE,
    Access,
)

if TYPE_CHECKING:
    from rlvr_trainer.recipe import Recipe

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
    help="How facts are printed.",
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


def _file(help: str) -> dict[str, Any]:
    kind = click.Path(path_type=Path, exists=True, dir_okay=False)
    return {"type": kind, "metavar": "FILE", "help": help}


_CLUSTER = (
    click.option("--namespace", default="", metavar="NAME", help="Of the jobs; in Kubeflow with "
                 "several users, the profile.  [default: the kubeconfig's]"),
    click.option("--context", metavar="NAME", help="Of the kubeconfig."),
)  # fmt: skip
_KUBEFLOW = (
    click.option("--endpoint", default="", metavar="URL", help="Of Kubeflow Pipelines.  [default: "
                 f"${ENDPOINT_VARIABLE}, else through the cluster]"),
    click.option("--token-file", **_file("Holds a token for Kubeflow; read again when it changes."
                 f"  [default: ${TOKEN_PATH_VARIABLE}, or the token in ${TOKEN_VARIABLE}]")),
    click.option("--cookies-file", **_file("Holds cookies for Kubeflow.  [default: those in "
                 f"${COOKIES_VARIABLE}]")),
    click.option("--ca-file", **_file("Authorities to trust for Kubeflow.")),
)  # fmt: skip


def cluster_options(command: Command) -> Command:
    """--namespace and --context, as `access`."""
    return grouped(command, "access", Access, _CLUSTER)


def access_options(command: Command) -> Command:
    """How to reach the cluster and Kubeflow, as `access`."""
    return grouped(command, "access", Access, (*_CLUSTER, *_KUBEFLOW))


@dataclass(frozen=True)
class JobOptions:
    """Where a job keeps its run directory, how large it is, and the platform's settings."""

    storage: str
    num_nodes: int | None
    gpus_per_node: int | None
    platform_file: Path | None
    platform_overrides: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """The platform's settings that are given here, nodes and GPUs among them.

        Raises ConfigError for what is no setting.
        """
        from rlvr_components.platform_file import parse_platform
        from rlvr_pipelines.platform_settings import read_settings

        settings = read_settings(self.platform_file, self.platform_overrides)
        for name in ("num_nodes", "gpus_per_node"):
            if getattr(self, name) is not None:
                settings[name] = getattr(self, name)
        # the image may come from the namespace's own settings
        parse_platform({"image": "none", **settings}, origin="--platform and --platform-set")
        return settings


_JOB = (
    click.option("--storage", default="", metavar="URI", help="Where jobs keep run directories: "
                 "s3://bucket/prefix, or a path on a volume of all pods."),
    click.option("--nodes", "num_nodes", type=click.IntRange(min=1), help="Pods that train "
                 "together.  [default: the platform's]"),
    click.option("--gpus", "gpus_per_node", type=click.IntRange(min=0), help="GPUs of each pod; "
                 "0: a CPU.  [default: the platform's]"),
    click.option("--platform", "platform_file", **_file("The platform's settings: image, selectors"
                 ", volumes.  [default: the namespace's ConfigMap rlvr-platform]")),
    click.option("--platform-set", "platform_overrides", multiple=True, metavar="A=B",
                 help="Change a setting of the platform; may be repeated."),
)  # fmt: skip


def job_options(command: Command) -> Command:
    """The size, place and platform of jobs, as `job`."""
    return grouped(command, "job", JobOptions, _JOB)


def grouped(
    command: Command, name: str, kind: type[Any], options: Iterable[Callable[[Any], Any]]
) -> Command:
    """Hand the values of these options to the command as one object of this dataclass."""

    @functools.wraps(command)
    def with_group(**arguments: Any) -> Any:
        known = kind.__dataclass_fields__
        group = {field: arguments.pop(field) for field in known if field in arguments}
        return command(**{name: kind(**group)}, **arguments)

    decorated: Any = with_group
    for decorate in reversed(tuple(options)):
        decorated = decorate(decorated)
    return cast(Command, decorated)


def package_options(command: Command) -> Command:
    """--image and --secret: what else a compiled pipeline holds."""
    for decorate in (
        click.option(
            "--secret",
            default="",
            metavar="NAME",
            help="A Secret whose keys are the steps' environment: storage credentials, say.",
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
    """RECIPE, --set and --seed."""
    for decorate in (
        click.option("--seed", type=int, help="The same as --set seed=N."),
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


def load(source: str, overrides: Iterable[str], seed: int | None) -> Recipe:
    """The recipe with its overrides. Raises ConfigError."""
    from rlvr_trainer.recipe_file import load_recipe, shipped_recipes

    seeds = [] if seed is None else [f"seed={seed}"]
    return load_recipe(source, [*overrides, *seeds], shipped=shipped_recipes("rlvr_pipelines"))


def default_run_dir(recipe: Recipe) -> Path:
    """`runs/NAME`."""
    return Path("runs", recipe.name)


def print_json(facts: Any) -> None:
    """Print facts as JSON on standard output."""
    json.dump(facts, sys.stdout, indent=2, ensure_ascii=False, default=list)
    print()
