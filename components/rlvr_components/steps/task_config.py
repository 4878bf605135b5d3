"""Pass the settings of a KFP task on to the step's job.

A model step declares task_config_passthroughs: resources, tolerations, node selectors, environment
and volumes that KFP sets on the task arrive as a TaskConfig and apply to the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlvr_components.jobs.pods import EFA, GPU
from rlvr_components.platform.quantity import parse_quantity
from rlvr_components.platform.settings import Platform, Volume
from rlvr_components.platform.settings_file import parse_platform
from rlvr_components.sagemaker.sagemaker_settings import SageMaker, parse_sagemaker
from rlvr_trainer.errors import ConfigError

GIB = 2**30


def merge_task_config(platform: Platform, config: Any) -> Platform:
    """Return the platform's settings, overridden by those of the task (a `dsl.TaskConfig` or None).

    Raises ConfigError for settings that a job does not support.
    """
    if config is None:
        return platform
    if config.affinity:
        raise ConfigError(
            "the task sets an affinity, which jobs do not support; use a node selector and "
            "tolerations"
        )
    tolerations = list(platform.tolerations)
    tolerations += [
        toleration for toleration in config.tolerations or () if toleration not in tolerations
    ]
    values, secrets = _environment(config.env or ())
    changed = {
        "tolerations": tuple(tolerations),
        "node_selector": {**platform.node_selector, **(config.node_selector or {})},
        "env": {**platform.env, **values},
        "secrets": tuple(dict.fromkeys([*platform.secrets, *secrets])),
        "volumes": (*platform.volumes, *_volumes(config)),
        **_resources(config.resources or {}),
    }
    return parse_platform({**platform.model_dump(), **changed}, origin="the task's own settings")


def merge_task_environment(settings: SageMaker, config: Any) -> SageMaker:
    """Return SageMaker's settings with the task's plain variables; Secrets are its launcher's.

    Raises ConfigError for settings that only pods have.
    """
    if config is None:
        return settings
    for name in ("affinity", "tolerations", "node_selector", "resources"):
        if getattr(config, name, None):
            raise ConfigError(
                f"the task sets {name}, which SageMaker's instances do not have; set "
                "instance_type and instance_count in job_sagemaker"
            )
    values = {
        str(entry["name"]): str(entry.get("value", ""))
        for entry in config.env or ()
        if not entry.get("valueFrom")
    }
    changed = {**settings.model_dump(), "env": {**settings.env, **values}}
    return parse_sagemaker(changed, origin="the task's own settings")


def _environment(entries: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """Return the plain values and the names of Secrets; fields of the pod are left out.

    A job takes all keys of a Secret by their own names. Raises ConfigError for another source.
    """
    values: dict[str, str] = {}
    secrets: list[str] = []
    for entry in entries:
        source = entry.get("valueFrom") or {}
        name, secret = entry["name"], source.get("secretKeyRef")
        if secret and secret["key"] != name:
            raise ConfigError(
                f"the task takes {name} from the key {secret['key']!r} of the Secret "
                f"{secret['name']!r}, and a job takes keys by their own names; name the key {name}"
            )
        if secret:
            secrets.append(secret["name"])
        elif not source:
            values[name] = str(entry.get("value", ""))
        elif "fieldRef" not in source:
            raise ConfigError(
                f"the task takes {name} from {', '.join(source)}, which jobs do not support; "
                "set its value, or put it into a Secret"
            )
    return values, secrets


def _volumes(config: Any) -> list[Volume]:
    """Return the claims; scratch volumes are left out, since a job has its own."""
    others = [
        volume["name"]
        for volume in config.volumes or ()
        if not {"persistentVolumeClaim", "emptyDir"} & volume.keys()
    ]
    parts = [mount["name"] for mount in config.volume_mounts or () if mount.get("subPath")]
    if others or parts:
        raise ConfigError(
            f"the task mounts {', '.join([*others, *parts])}, and jobs support whole claims "
            "only; use a PersistentVolumeClaim without a sub_path"
        )
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in config.volumes or ()
        if "persistentVolumeClaim" in volume
    }
    return [
        Volume(
            claim=claims[mount["name"]],
            path=mount["mountPath"],
            read_only=bool(mount.get("readOnly")),
        )
        for mount in config.volume_mounts or ()
        if mount["name"] in claims
    ]


def _resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    asked = {**limits, **requests}
    if "memory" in limits:  # a job's request is its limit, and a lower one would kill it
        asked["memory"] = limits["memory"]
    changed: dict[str, Any] = {}
    if "cpu" in asked:
        changed["cpu_per_node"] = float(parse_quantity(asked["cpu"]))
    if "memory" in asked:
        changed["memory_gib_per_node"] = float(parse_quantity(asked["memory"]) / GIB)
    if GPU in asked:
        changed["gpus_per_node"] = int(parse_quantity(asked[GPU]))
    if EFA in asked:
        changed["efa_per_node"] = int(parse_quantity(asked[EFA]))
    return changed
