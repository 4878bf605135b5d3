"""Check that the cluster can run the jobs: the kind is installed, the rights and quota suffice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlvr_components.jobs.kinds import Api, kind_of, missing_rights, not_installed
from rlvr_components.kubernetes.api_errors import ObjectNotFound
from rlvr_components.pipeline_run import Place
from rlvr_components.platform.quantity import parse_quantity
from rlvr_components.platform.settings import Platform
from rlvr_components.preflight.form import PLATFORM_KEY, PLATFORM_MAP
from rlvr_trainer.errors import ConfigError

GPU_QUOTAS = ("requests.nvidia.com/gpu", "limits.nvidia.com/gpu")


def read_platform_map(api: Api, namespace: str) -> str:
    """Return the platform's settings of the namespace (YAML), empty if it has none.

    Raises ConfigError, PlatformError.
    """
    path = f"/api/v1/namespaces/{namespace}/configmaps/{PLATFORM_MAP}"
    try:
        return str((api.get(path).get("data") or {}).get(PLATFORM_KEY, ""))
    except ObjectNotFound:
        return ""


def check_cluster(api: Api, place: Place, platform: Platform, namespace: str) -> list[str]:
    """Return remarks for the user on a job that will have to wait.

    Raises ConfigError if the job cannot run, PlatformError if the server does not answer.
    """
    _check_installed(api, place)
    _check_allowed(api, place, namespace)
    return list(_check_quota(api, platform, namespace))


def check_admitted(api: Api, place: Place, manifest: dict[str, Any], namespace: str) -> None:
    """Check that the API server and its admission policies would accept the job.

    Raises ConfigError with their messages, PlatformError.
    """
    api.try_to_create(kind_of(place).path(namespace), manifest)


def _check_installed(api: Api, place: Place) -> None:
    kind = kind_of(place)
    try:
        resources = api.get(f"/apis/{kind.api_version}").get("resources") or ()
        names = {resource["name"] for resource in resources}
    except ObjectNotFound:
        names = set()
    if kind.plural not in names:
        raise ConfigError(f"job_place: {not_installed(kind)}")


def _check_allowed(api: Api, place: Place, namespace: str) -> None:
    missing = missing_rights(api, kind_of(place), namespace)
    if missing:
        raise ConfigError(
            f"this step may not {', '.join(missing)} in namespace {namespace}; bind the Role "
            "rlvr-launcher (manifests/base/launcher-role) there to its service account, or "
            "choose another job_namespace"
        )


def _check_quota(api: Api, platform: Platform, namespace: str) -> Iterator[str]:
    requested = platform.num_nodes * platform.gpus_per_node
    if not requested:
        return
    for quota in api.get(f"/api/v1/namespaces/{namespace}/resourcequotas").get("items") or ():
        name, status = quota["metadata"]["name"], quota.get("status") or {}
        for resource in GPU_QUOTAS:
            hard = (status.get("hard") or quota["spec"].get("hard") or {}).get(resource)
            if hard is None:
                continue
            allowed = int(parse_quantity(hard))
            used = int(parse_quantity((status.get("used") or {}).get(resource, 0)))
            if requested > allowed:
                raise ConfigError(
                    f"the job asks for {requested} GPUs ({platform.num_nodes} nodes of "
                    f"{platform.gpus_per_node}), and the quota {name} of namespace {namespace} "
                    f"allows {hard}; ask for fewer (job_num_nodes, job_gpus_per_node), or have it "
                    "raised"
                )
            if requested > allowed - used:
                yield (
                    f"The quota {name} has {allowed - used} of {hard} GPUs left: the job of "
                    f"{requested} waits for the others."
                )
