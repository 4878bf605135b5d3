"""What Kubeflow was told of a step, handed on to the step's job.

A model step declares task_config_passthroughs: resources, tolerations, node selectors, environment
and volumes that are set on the task with KFP's own means come as a TaskConfig, and are the job's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from rlvr_components.platform import Platform, Volume
from rlvr_trainer.errors import ConfigError

GPU = "nvidia.com/gpu"
EFA = "vpc.amazonaws.com/efa"
GIB = 2**30
SUFFIXES = {
    suffix: Decimal(factor)
    for suffix, factor in (
        ("", 1), ("m", "0.001"), ("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12),
        ("Ki", 2**10), ("Mi", 2**20), ("Gi", 2**30), ("Ti", 2**40),
    )
}  # fmt: skip
"""Of Kubernetes' quantities."""


def merge_task_config(platform: Platform, config: Any) -> Platform:
    """The platform's settings with those of the task (a `dsl.TaskConfig` or None) on top.

    Raises ConfigError for what a job cannot take over.
    """
    if config is None:
        return platform
    if config.affinity:
        raise ConfigError(
            "the task sets an affinity, which jobs do not take over; use a node selector and "
            "tolerations"
        )
    tolerations = list(platform.tolerations)
    tolerations += [each for each in config.tolerations or () if each not in tolerations]
    values, secrets = _environment(config.env or ())
    changed = {
        "tolerations": tuple(tolerations),
        "node_selector": {**platform.node_selector, **(config.node_selector or {})},
        "env": {**platform.env, **values},
        "secrets": tuple(dict.fromkeys([*platform.secrets, *secrets])),
        "volumes": (*platform.volumes, *_volumes(config)),
        **_resources(config.resources or {}),
    }
    return Platform.model_validate({**platform.model_dump(), **changed})


def _environment(entries: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], list[str]]:
    """Plain values, and the names of Secrets; fields of the pod itself are not the job's."""
    values: dict[str, str] = {}
    secrets: list[str] = []
    for entry in entries:
        source = entry.get("valueFrom") or {}
        if "secretKeyRef" in source:
            secrets.append(source["secretKeyRef"]["name"])
        elif not source:
            values[entry["name"]] = str(entry.get("value", ""))
    return values, secrets


def _volumes(config: Any) -> list[Volume]:
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
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    changed: dict[str, Any] = {}
    if "cpu" in asked:
        changed["cpu_per_node"] = float(_quantity(asked["cpu"]))
    if "memory" in asked:
        changed["memory_gib_per_node"] = float(_quantity(asked["memory"]) / GIB)
    if GPU in asked:
        changed["gpus_per_node"] = int(_quantity(asked[GPU]))
    if EFA in asked:
        changed["efa_per_node"] = int(_quantity(asked[EFA]))
    return changed


def _quantity(text: str | int) -> Decimal:
    number = str(text).rstrip("".join(SUFFIXES))
    try:
        return Decimal(number) * SUFFIXES[str(text)[len(number) :]]
    except (ArithmeticError, KeyError):
        raise ConfigError(
            f"the task asks for {text!r}, which is no quantity; write 500m, 4, 16Gi"
        ) from None
