"""Groups of options that a command receives as one object."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
from click.core import ParameterSource

from rlvr_pipelines.access_options import ENDPOINT_VARIABLE, TOKEN_PATH_VARIABLE, AccessOptions
from rlvr_pipelines.cli.options import Command
from rlvr_trainer.variables import COOKIES_VARIABLE, TOKEN_VARIABLE


def grouped(
    command: Command, name: str, kind: type[Any], options: Iterable[Callable[[Any], Any]]
) -> Command:
    """Pass the values of these options to the command as one object of the dataclass `kind`."""

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
    click.option("--namespace", default="", metavar="NAME", help="The namespace of the jobs; in "
                 "Kubeflow with several users, the profile.  [default: the kubeconfig's]"),
    click.option("--context", metavar="NAME", help="The context of the kubeconfig."),
)  # fmt: skip
_KUBEFLOW = (
    click.option("--endpoint", default="", metavar="URL", help="The address of Kubeflow "
                 f"Pipelines.  [default: ${ENDPOINT_VARIABLE}, else through the cluster]"),
    click.option("--token-file", **_file("A file with a token for Kubeflow; read again when it "
                 f"changes.  [default: ${TOKEN_PATH_VARIABLE}, or the token in "
                 f"${TOKEN_VARIABLE}]")),
    click.option("--cookies-file", **_file("A file with cookies for Kubeflow.  [default: those in "
                 f"${COOKIES_VARIABLE}]")),
    click.option("--ca-file", **_file("A file with the certificate authorities to trust for "
                 "Kubeflow.")),
)  # fmt: skip


def cluster_options(command: Command) -> Command:
    """Add --namespace and --context, as `access`."""
    return grouped(command, "access", AccessOptions, _CLUSTER)


def access_options(command: Command) -> Command:
    """Add the options that reach the cluster and Kubeflow, as `access`."""
    return grouped(command, "access", AccessOptions, (*_CLUSTER, *_KUBEFLOW))


@dataclass(frozen=True)
class JobOptions:
    """The storage of a job's run directory, its size, and the platform's settings."""

    storage: str
    num_nodes: int | None
    gpus_per_node: int | None
    platform_file: Path | None
    platform_overrides: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Return the platform's settings that are given, nodes and GPUs included.

        Raises ConfigError for an unknown or invalid setting.
        """
        from rlvr_components.platform.settings_file import parse_platform
        from rlvr_pipelines.cluster.platform_settings import read_platform_settings

        settings = read_platform_settings(self.platform_file, self.platform_overrides)
        for name in ("num_nodes", "gpus_per_node"):
            if getattr(self, name) is not None:
                settings[name] = getattr(self, name)
        # the image may come from the namespace's settings
        parse_platform({"image": "none", **settings}, origin="--platform and --platform-set")
        return settings


_JOB = (
    click.option("--storage", default="", metavar="URI", help="Where to keep run directories: "
                 "s3://bucket/prefix, or a path on a volume of all pods."),
    click.option("--nodes", "num_nodes", type=click.IntRange(min=1), help="The number of pods "
                 "that train together.  [default: the platform's]"),
    click.option("--gpus", "gpus_per_node", type=click.IntRange(min=0), help="GPUs of each pod; "
                 "0 for a CPU.  [default: the platform's]"),
    click.option("--platform", "platform_file", **_file("A YAML file of the platform's "
                 "settings (image, selectors, volumes); they override those of the namespace's "
                 "ConfigMap rlvr-platform.")),
    click.option("--platform-set", "platform_overrides", multiple=True, metavar="A=B",
                 help="Change a setting of the platform; may be repeated."),
)  # fmt: skip


def job_options(command: Command) -> Command:
    """Add the size, storage and platform of jobs, as `job`."""
    return grouped(command, "job", JobOptions, _JOB)


@dataclass(frozen=True)
class CostOptions:
    """The type of the nodes, by which a run is priced, and the limit of its price."""

    instance_type: str
    max_cost_usd: float | None


_COST = (
    click.option("--instance-type", default="", metavar="TYPE", help="The instance type of the "
                 "nodes, for the price.  [default: the platform's node_selector]"),
    click.option("--max-cost-usd", type=click.FloatRange(min=0, min_open=True), metavar="USD",
                 help="Refuse a run that is estimated to cost more, and stop a job that has cost "
                 "its share of this."),
)  # fmt: skip
COST_PLACES = {
    "instance_type": ("pytorchjob", "trainjob"),
    "max_cost_usd": ("pytorchjob", "trainjob", "sagemaker"),
}
"""Option → the places where it has an effect."""


def cost_options(command: Command) -> Command:
    """Add --instance-type and --max-cost-usd, as `cost`."""
    return grouped(command, "cost", CostOptions, _COST)


@dataclass(frozen=True)
class SageMakerOptions:
    """The settings of SageMaker."""

    sagemaker_file: Path | None
    sagemaker_overrides: tuple[str, ...]

    def settings(self, job: JobOptions) -> dict[str, Any]:
        """Return the settings that are given, with --nodes as the number of instances.

        Raises ConfigError for an unknown, invalid or missing setting.
        """
        from rlvr_components.sagemaker.sagemaker_settings import parse_sagemaker
        from rlvr_pipelines.cluster.platform_settings import read_platform_settings

        settings = read_platform_settings(
            self.sagemaker_file, self.sagemaker_overrides, option="--sagemaker-set"
        )
        if job.num_nodes is not None:
            settings["instance_count"] = job.num_nodes
        parse_sagemaker(settings, origin="--sagemaker and --sagemaker-set")
        return settings


_SAGEMAKER = (
    click.option("--sagemaker", "sagemaker_file", **_file("A YAML file of SageMaker's settings "
                 "(role_arn, image, instance_type).")),
    click.option("--sagemaker-set", "sagemaker_overrides", multiple=True, metavar="A=B",
                 help="Change a setting of SageMaker; may be repeated."),
)  # fmt: skip


def sagemaker_options(command: Command) -> Command:
    """Add the settings of SageMaker, as `sagemaker`."""
    return grouped(command, "sagemaker", SageMakerOptions, _SAGEMAKER)


@dataclass(frozen=True)
class JobPlace:
    """The place where the jobs of a run are looked up."""

    jobs_on: str | None
    region: str

    @property
    def is_said_to_be_sagemaker(self) -> bool:
        """Return True if SageMaker is chosen: for what must not happen by a default."""
        return self.jobs_on == "sagemaker" or (bool(self.region) and not self.jobs_on)

    @property
    def is_sagemaker(self) -> bool:
        """Return True for SageMaker: chosen, or without a cluster if there are AWS credentials."""
        if self.jobs_on or self.region:
            return self.jobs_on != "cluster"
        from rlvr_components.kubernetes.access import has_cluster
        from rlvr_pipelines.sagemaker.sagemaker_runs import uses_aws

        return not has_cluster() and uses_aws()


_JOB_PLACE = (
    click.option("--on", "jobs_on", type=click.Choice(["cluster", "sagemaker"]), help="Where the "
                 "jobs are.  [default: the cluster; without one, SageMaker]"),
    click.option("--region", default="", metavar="NAME", help="The region of jobs on SageMaker.  "
                 "[default: that of the AWS profile]"),
)  # fmt: skip


def job_place_options(command: Command) -> Command:
    """Add --on and --region, as `where`."""
    return grouped(command, "where", JobPlace, _JOB_PLACE)


def check_places(place: str, places_by_option: Mapping[str, Sequence[str]]) -> None:
    """Raise UsageError for an option that has no effect at this place."""
    context = click.get_current_context()
    for option in context.command.params:
        places = places_by_option.get(option.name or "", ())
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if places and given and place not in places:
            raise click.UsageError(
                f"{option.opts[0]} is for --on {' and '.join(places)}, not for --on {place}"
            )


def require_storage(place: str, storage: str) -> str:
    """Return the storage of a place that needs one. Raises ConfigError for none."""
    from rlvr_trainer.errors import ConfigError

    if not storage:
        raise ConfigError(
            f"--on {place} without --storage: the pods of a job share no disk with this machine; "
            "give --storage s3://bucket/prefix"
            + ("" if place == "sagemaker" else ", or a path on a volume of all pods")
        )
    return storage
