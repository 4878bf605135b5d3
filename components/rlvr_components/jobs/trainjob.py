"""Render a job as a TrainJob (trainer.kubeflow.org/v1alpha1), a plain dict. Pure.

A TrainJob refers to a TrainingRuntime (`manifests/components/trainjob`), which holds the fields
that a TrainJob lacks, and overrides it by the platform's settings. Every minor version of Trainer
renamed the field for overrides; `overrides_field` finds the name that the API server knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Literal, cast, get_args

from rlvr_components.jobs.job import JobSpec
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
"""Name of the runtime's container and replicated job that Trainer looks for."""
MANAGER = "rlvr.dev/launcher"
"""Manager of our runtime patch."""

COMMON_FIELDS = ("serviceAccountName", "nodeSelector", "tolerations", "volumes")
FIELDS: dict[OverridesField, tuple[str, ...]] = {
    "podSpecOverrides": COMMON_FIELDS,
    "podTemplateOverrides": (*COMMON_FIELDS, "imagePullSecrets"),
    "runtimePatches": (*COMMON_FIELDS, "imagePullSecrets", "securityContext"),
}
"""Fields of a pod's spec that override the runtime's."""
CONTAINER_FIELDS: dict[OverridesField, tuple[str, ...]] = {
    "podSpecOverrides": ("volumeMounts",),
    "podTemplateOverrides": ("volumeMounts",),
    "runtimePatches": ("volumeMounts", "securityContext"),
}
"""Fields of a container that override the runtime's."""
IN_NO_VERSION = ("image_pull_policy", "priority_class")
ONLY_IN_RUNTIME: dict[OverridesField, tuple[str, ...]] = {
    "podSpecOverrides": (
        *(*IN_NO_VERSION, "stop_grace_s"),
        *("image_pull_secrets", "labels", "annotations"),
    ),
    "podTemplateOverrides": (*IN_NO_VERSION, "stop_grace_s"),
    "runtimePatches": IN_NO_VERSION,
}
"""Settings that only the runtime holds; their defaults are those of our runtime."""


def render_trainjob(spec: JobSpec, platform: Platform, overrides: OverridesField) -> dict[str, Any]:
    """Render the TrainJob for an API server that knows the field `overrides`.

    Raises ConfigError for settings that a TrainJob cannot express.
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
                "env": [*env, *_from_secrets(platform, {variable["name"] for variable in env})],
                "numNodes": spec.resources.num_nodes,
                "numProcPerNode": max(spec.resources.gpus_per_node, 1),
                **(
                    {"resourcesPerNode": per_node}
                    if (per_node := resources(spec, platform))
                    else {}
                ),
            },
            # For a launcher that is gone, as in a PyTorchJob. Earlier versions lack the field.
            **(deadline if overrides == "runtimePatches" else {}),
            overrides: [_override(spec, platform, overrides)],
        },
    }


def overrides_field(openapi: Mapping[str, Any]) -> OverridesField:
    """Return the field that the API server knows, from the API group's OpenAPI v3 document.

    Raises ConfigError if it knows none.
    """
    schemas = openapi.get("components", {}).get("schemas", {})
    for name, schema in schemas.items():
        if name.endswith(".TrainJob"):
            spec = schema.get("properties", {}).get("spec", {})
            for field in reversed(get_args(OverridesField)):
                if field in spec.get("properties", {}):
                    return cast(OverridesField, field)
    raise ConfigError(
        "the API server's TrainJob has none of the fields "
        f"{', '.join(get_args(OverridesField))}; install Kubeflow Trainer 2.0 or later, or run on "
        "pytorchjob"
    )


def _override(spec: JobSpec, platform: Platform, overrides: OverridesField) -> dict[str, Any]:
    whole = pod_spec(CONTAINER, spec, platform)
    [container] = whole["containers"]
    pod = {name: whole[name] for name in FIELDS[overrides] if name in whole}
    overridden = {name: container[name] for name in CONTAINER_FIELDS[overrides]}
    pod["containers"] = [{"name": CONTAINER, **overridden}]
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
                f"{name}: {getattr(platform, name)!r} cannot override a TrainingRuntime by "
                f"{overrides}; set it in the TrainingRuntime {platform.runtime!r} and leave it out "
                f"of the platform's settings{newer}"
            )
    if len(platform.secrets) > 1:
        raise ConfigError(
            f"secrets: {', '.join(platform.secrets)} are {len(platform.secrets)} Secrets, and a "
            "TrainJob takes variables from one; put their keys into one Secret"
        )
