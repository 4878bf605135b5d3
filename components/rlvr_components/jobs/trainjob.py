"""A job as a TrainJob (trainer.kubeflow.org/v1alpha1), rendered as a plain dict. Pure.

A TrainJob names a TrainingRuntime (`manifests/components/trainjob`), which holds what it cannot say
itself, and lays the platform's settings over it. The field for that was renamed by every minor
version of Trainer, so the API server is asked which one it knows (`overrides_field`).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Literal, get_args

from rlvr_components.jobs import JobSpec
from rlvr_components.jobs.pods import (
    environment,
    job_annotations,
    job_labels,
    metadata,
    pod_spec,
    resources,
)
from rlvr_components.jobs.pytorchjob import QUEUE_LABEL, check_name
from rlvr_components.platform.settings import SECRET_KEYS, Platform
from rlvr_trainer.errors import ConfigError

OverridesField = Literal["podSpecOverrides", "podTemplateOverrides", "runtimePatches"]
"""Names of the field in Trainer 2.0, in 2.1, and since 2.2."""
NEWEST_OVERRIDES: OverridesField = "runtimePatches"

CONTAINER = "node"
"""Trainer looks for the runtime's container and replicated job by this name."""
MANAGER = "rlvr.dev/launcher"
"""Owner of our patch."""

COMMON_FIELDS = ("serviceAccountName", "nodeSelector", "tolerations", "volumes")
FIELDS: dict[OverridesField, tuple[str, ...]] = {
    "podSpecOverrides": COMMON_FIELDS,
    "podTemplateOverrides": (*COMMON_FIELDS, "imagePullSecrets"),
    "runtimePatches": (*COMMON_FIELDS, "imagePullSecrets", "securityContext"),
}
"""Fields of a pod's spec that can be laid over the runtime's."""
CONTAINER_FIELDS: dict[OverridesField, tuple[str, ...]] = {
    "podSpecOverrides": ("volumeMounts",),
    "podTemplateOverrides": ("volumeMounts",),
    "runtimePatches": ("volumeMounts", "securityContext"),
}
"""Fields of its container that can."""
IN_NO_VERSION = ("image_pull_policy", "priority_class")
ONLY_IN_RUNTIME: dict[OverridesField, tuple[str, ...]] = {
    "podSpecOverrides": (
        *(*IN_NO_VERSION, "stop_grace_s"),
        *("image_pull_secrets", "labels", "annotations"),
    ),
    "podTemplateOverrides": (*IN_NO_VERSION, "stop_grace_s"),
    "runtimePatches": IN_NO_VERSION,
}
"""Settings that only the runtime can hold; their defaults are those of our runtime."""


def render_trainjob(spec: JobSpec, platform: Platform, overrides: OverridesField) -> dict[str, Any]:
    """Render the TrainJob for an API server that knows the field `overrides`.

    Raises ConfigError for what it cannot express.
    """
    check_name(spec.name, f"-node-0-{max(spec.resources.num_nodes - 1, 0)}")
    _check_expressible(platform, overrides)
    meta = metadata(spec, platform)
    if platform.queue:
        meta["labels"] |= {QUEUE_LABEL: platform.queue}
    deadline = {"activeDeadlineSeconds": platform.queue_timeout_s + platform.run_timeout_s}
    env = environment(spec, platform)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": meta,
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": platform.runtime,
            },
            "trainer": {
                "image": platform.image,
                "command": list(spec.command),
                "env": [*env, *_from_secrets(platform, {each["name"] for each in env})],
                "numNodes": spec.resources.num_nodes,
                "numProcPerNode": max(spec.resources.gpus_per_node, 1),
                **({"resourcesPerNode": found} if (found := resources(spec, platform)) else {}),
            },
            # As of a PyTorchJob: for a launcher that is gone. Earlier versions have none.
            **(deadline if overrides == "runtimePatches" else {}),
            overrides: [_override(spec, platform, overrides)],
        },
    }


def overrides_field(openapi: Mapping[str, Any]) -> OverridesField:
    """Return the field that the API server knows, from the API group's OpenAPI v3 document.

    Raises ConfigError when it knows none of them.
    """
    schemas = openapi.get("components", {}).get("schemas", {})
    for name, schema in schemas.items():
        if name.endswith(".TrainJob"):
            spec = schema.get("properties", {}).get("spec", {})
            for field in reversed(get_args(OverridesField)):
                if field in spec.get("properties", {}):
                    found: OverridesField = field
                    return found
    raise ConfigError(
        "the API server's TrainJob has none of the fields "
        f"{', '.join(get_args(OverridesField))}; install Kubeflow Trainer 2.0 or later, or run on "
        "pytorchjob"
    )


def _override(spec: JobSpec, platform: Platform, overrides: OverridesField) -> dict[str, Any]:
    whole = pod_spec(CONTAINER, spec, platform)
    [container] = whole["containers"]
    pod = {name: whole[name] for name in FIELDS[overrides] if name in whole}
    laid = {name: container[name] for name in CONTAINER_FIELDS[overrides]}
    pod["containers"] = [{"name": CONTAINER, **laid}]
    if _is_set(platform, "stop_grace_s"):  # 2.2 does not know the field, which came with 2.3
        pod["terminationGracePeriodSeconds"] = whole["terminationGracePeriodSeconds"]
    meta = {"labels": job_labels(spec, platform), "annotations": job_annotations(spec, platform)}
    match overrides:
        case "podSpecOverrides":
            return {"targetJobs": [{"name": CONTAINER}], **pod}
        case "podTemplateOverrides":
            return {"targetJobs": [{"name": CONTAINER}], "metadata": meta, "spec": pod}
        case "runtimePatches":
            job = {"template": {"spec": {"template": {"metadata": meta, "spec": pod}}}}
            jobs = [{"name": CONTAINER, **job}]
            return {
                "manager": MANAGER,
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}},
            }


def _from_secrets(platform: Platform, given: Set[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": key,
            "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}},
        }
        for secret in platform.secrets
        for key in SECRET_KEYS
        if key not in given
    ]


def _is_set(platform: Platform, name: str) -> bool:
    default = Platform.model_fields[name].default
    return bool(getattr(platform, name) != default)


def _check_expressible(platform: Platform, overrides: OverridesField) -> None:
    for name in ONLY_IN_RUNTIME[overrides]:
        if _is_set(platform, name):
            newer = "" if name in IN_NO_VERSION else ", or install Kubeflow Trainer 2.3 or later"
            raise ConfigError(
                f"{name}: {getattr(platform, name)!r} cannot be laid over a TrainingRuntime by "
                f"{overrides}; set it in the TrainingRuntime {platform.runtime!r} and leave it out "
                f"of the platform's settings{newer}"
            )
    if len(platform.secrets) > 1:
        raise ConfigError(
            f"secrets: {', '.join(platform.secrets)} are {len(platform.secrets)}, and a TrainJob's "
            "variables come from one; put their keys into one Secret"
        )
