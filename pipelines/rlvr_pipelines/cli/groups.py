"""Options that belong together, handed to a command as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
from click.core import ParameterSource

from rlvr_pipelines.access_options import ENDPOINT_VARIABLE, TOKEN_PATH_VARIABLE, Access
from rlvr_pipelines.cli.options import Command
from rlvr_trainer.variables import COOKIES_VARIABLE, TOKEN_VARIABLE


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
        from rlvr_components.platform.settings_file import parse_platform
        from rlvr_pipelines.cluster.platform_settings import read_settings

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
    click.option("--platform", "platform_file", **_file("Settings of the platform: "
                 "image, selectors, volumes; they go before those of the namespace's ConfigMap "
                 "rlvr-platform.")),
    click.option("--platform-set", "platform_overrides", multiple=True, metavar="A=B",
                 help="Change a setting of the platform; may be repeated."),
)  # fmt: skip


def job_options(command: Command) -> Command:
    """The size, place and platform of jobs, as `job`."""
    return grouped(command, "job", JobOptions, _JOB)


def check_places(place: str, places_by_option: Mapping[str, Sequence[str]]) -> None:
    """Refuse an option that would be without effect, since somebody meant something by it."""
    context = click.get_current_context()
    for option in context.command.params:
        places = places_by_option.get(option.name or "", ())
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if places and given and place not in places:
            raise click.UsageError(
                f"{option.opts[0]} is for --on {' and '.join(places)}, not for --on {place}"
            )


def require_storage(place: str, storage: str) -> str:
    """The storage, for a place that needs one. Raises ConfigError."""
    from rlvr_trainer.errors import ConfigError

    if not storage:
        raise ConfigError(
            f"--on {place} without --storage: the pods of a job share no disk with this machine; "
            "give --storage s3://bucket/prefix, or a path on a volume of all pods"
        )
    return storage
