"""The run that a step is part of: its id, its folder in the storage, and its launch settings.

Within Kubeflow the id is that of the pipeline run. A step gets the id from its environment and the
settings from the run's folder, not as inputs, since other inputs prevent that a result is reused.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rlvr_components.jobs import Owner
from rlvr_components.kubernetes.access import SERVICE_ACCOUNT
from rlvr_components.platform.settings import Platform
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_trainer.errors import ConfigError, RLVRError
from rlvr_trainer.storage import S3_SCHEME, Storage
from rlvr_trainer.variables import NAMESPACE_VARIABLE, RUN_ID_VARIABLE

logger = logging.getLogger(__name__)

Place = Literal["local", "pytorchjob", "trainjob", "sagemaker"]
"""Backend of the model steps."""

POD_NAME_VARIABLE, POD_UID_VARIABLE = "KFP_POD_NAME", "KFP_POD_UID"
"""Set by Kubeflow Pipelines for every step."""

SETTINGS, LAUNCHED = "launch.json", "launched.json"
"""Files in the run's folder."""


@dataclass(frozen=True)
class LaunchSettings:
    """Settings with which all steps of a run launch their jobs."""

    place: Place
    run_name: str
    platform: Platform | SageMaker
    """Settings of the place."""
    writes_artifacts: bool = False
    """True if pods may write to the pipeline's artifacts themselves."""


def run_id() -> str:
    """Return the run's id. Raises ConfigError."""
    own_id = os.environ.get(RUN_ID_VARIABLE, "")
    if not own_id:
        raise ConfigError(
            f"{RUN_ID_VARIABLE} is not set, so the run has no id; compile the pipeline with "
            "`rlvr compile`, which sets it from the pod's label"
        )
    return own_id


def in_kubeflow() -> bool:
    """Return True if this process is a step in a cluster."""
    return POD_NAME_VARIABLE in os.environ


def run_folder(storage_uri: str) -> str:
    """Return the run's folder in the storage, which is its training's run directory."""
    return f"{storage_uri.rstrip('/')}/{run_id()}"


def default_storage(artifact_uri: str) -> str:
    """Return the storage beside the pipeline's artifacts: `s3://ROOT/PIPELINE/runs`.

    `artifact_uri` is that of any artifact of this run.
    Raises ConfigError if pods cannot write there.
    """
    beside = re.split(rf"/{re.escape(run_id())}(/|$)", artifact_uri, maxsplit=1)[0]
    if not artifact_uri.startswith(S3_SCHEME) or beside == artifact_uri:
        raise ConfigError(
            f"the pipeline's artifacts are in {artifact_uri}, where the pods of a job cannot keep "
            "their checkpoints; set storage_uri to s3://bucket/prefix (with AWS_ENDPOINT_URL_S3 "
            "for another server), or to a path on a volume of all pods"
        )
    return f"{beside}/runs"


def write_settings(storage: Storage, settings: LaunchSettings) -> None:
    """Write the settings to the run's folder. Raises ConfigError, PlatformError."""
    tree = {**vars(settings), "platform": settings.platform.model_dump(mode="json")}
    storage.write_bytes(SETTINGS, json.dumps(tree, indent=2).encode())


def read_settings(storage: Storage) -> LaunchSettings | None:
    """Return the settings of the run's folder, if any. Raises ConfigError, PlatformError."""
    try:
        tree = json.loads(storage.read_bytes(SETTINGS))
    except FileNotFoundError:
        return None
    kind = SageMaker if tree["place"] == "sagemaker" else Platform
    return LaunchSettings(**{**tree, "platform": kind.model_validate(tree["platform"])})


def record_launch(storage: Storage, *, is_launched: bool) -> None:
    """Record that a job is about to be launched, or that none is left.

    Raises ConfigError, PlatformError.
    """
    storage.write_bytes(LAUNCHED, json.dumps(is_launched).encode())


def may_have_live_jobs(storage: Storage) -> bool:
    """Return True if a job was launched and is not known to have terminated.

    Raises ConfigError, PlatformError.
    """
    try:
        return bool(json.loads(storage.read_bytes(LAUNCHED)))
    except FileNotFoundError:
        return False


def own_namespace() -> str:
    """Return the namespace of this pod, empty outside a cluster."""
    mounted = SERVICE_ACCOUNT / "namespace"
    if name := os.environ.get(NAMESPACE_VARIABLE):
        return name
    return mounted.read_text("utf-8").strip() if mounted.is_file() else ""


def owner_of_jobs(namespace: str, get: Callable[[str], dict[str, Any]]) -> Owner | None:
    """Return the object that this step's jobs are deleted with; None outside Kubeflow.

    None if the jobs are in another namespace: Kubernetes would count their owner as deleted and
    delete them.
    """
    name, uid = os.environ.get(POD_NAME_VARIABLE), os.environ.get(POD_UID_VARIABLE)
    if not name or not uid or (namespace and namespace != own_namespace()):
        return None
    try:
        return owner_from_pod(get(f"/api/v1/namespaces/{own_namespace()}/pods/{name}"))
    except RLVRError as error:
        logger.warning("the Workflow of pod %s is not known: %s", name, error)
        return Owner("v1", "Pod", name, uid)


def owner_from_pod(pod: dict[str, Any]) -> Owner:
    """Return the Workflow that a step's pod belongs to, or else the pod itself."""
    metadata = pod["metadata"]
    for reference in metadata.get("ownerReferences") or ():
        if reference["kind"] == "Workflow":
            return Owner(
                reference["apiVersion"], reference["kind"], reference["name"], reference["uid"]
            )
    return Owner("v1", "Pod", metadata["name"], metadata["uid"])
