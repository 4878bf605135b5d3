"""The run that a step is part of: its id, its folder in the storage, how its jobs are launched.

Within Kubeflow the id is the pipeline run's. It and the settings reach a step by its environment
and the run's folder, not as inputs, which decide whether an earlier result is reused.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlvr_components.jobs import Owner
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError, RLVRError
from rlvr_trainer.storage import S3_SCHEME, Storage
from rlvr_trainer.variables import NAMESPACE_VARIABLE, RUN_ID_VARIABLE

logger = logging.getLogger(__name__)

Place = Literal["local", "pytorchjob", "trainjob"]
"""Where model steps run."""

POD_NAME_VARIABLE, POD_UID_VARIABLE = "KFP_POD_NAME", "KFP_POD_UID"
"""What Kubeflow Pipelines tells every step."""

SETTINGS, LAUNCHED = "launch.json", "launched.json"
"""In the run's folder."""


@dataclass(frozen=True)
class LaunchSettings:
    """How the jobs of a run are launched; the same for all its steps."""

    place: Place
    run_name: str
    platform: Platform
    writes_artifacts: bool = False
    """Whether pods may write to the pipeline's artifacts themselves."""


def run_id() -> str:
    """The run's id. Raises ConfigError."""
    found = os.environ.get(RUN_ID_VARIABLE, "")
    if not found:
        raise ConfigError(
            f"{RUN_ID_VARIABLE} is not set, so that the run has no name; compile the pipeline with "
            "`rlvr compile`, which takes it from the pod's label"
        )
    return found


def in_kubeflow() -> bool:
    """Whether this process is a step in a cluster."""
    return POD_NAME_VARIABLE in os.environ


def run_folder(storage_uri: str) -> str:
    """The run's own folder in the storage: its training's run directory."""
    return f"{storage_uri.rstrip('/')}/{run_id()}"


def default_storage(artifact_uri: str) -> str:
    """Beside the pipeline's artifacts: `s3://ROOT/PIPELINE/runs`, from the URI of one of this run.

    Raises ConfigError where pods could not write there.
    """
    beside = re.split(rf"/{re.escape(run_id())}(/|$)", artifact_uri, maxsplit=1)[0]
    if not artifact_uri.startswith(S3_SCHEME) or beside == artifact_uri:
        raise ConfigError(
            f"the pipeline's artifacts are in {artifact_uri}, where the pods of a job cannot keep "
            "their checkpoints; set storage_uri to s3://bucket/prefix (with AWS_ENDPOINT_URL_S3 "
            "for a server of your own), or to a path on a volume of all pods"
        )
    return f"{beside}/runs"


def write_settings(storage: Storage, settings: LaunchSettings) -> None:
    """Leave them in the run's folder. Raises ConfigError, PlatformError."""
    tree = {**vars(settings), "platform": settings.platform.model_dump(mode="json")}
    storage.write_bytes(SETTINGS, json.dumps(tree, indent=2).encode())


def read_settings(storage: Storage) -> LaunchSettings | None:
    """Those of the run's folder, None when it has none. Raises ConfigError, PlatformError."""
    try:
        tree = json.loads(storage.read_bytes(SETTINGS))
    except FileNotFoundError:
        return None
    return LaunchSettings(**{**tree, "platform": Platform.model_validate(tree["platform"])})


def record_launch(storage: Storage, *, is_launched: bool) -> None:
    """Write down that a job is about to be launched, or that none is left.

    Raises ConfigError, PlatformError.
    """
    storage.write_bytes(LAUNCHED, json.dumps(is_launched).encode())


def may_have_live_jobs(storage: Storage) -> bool:
    """Return whether a job was launched that nobody knows to have ended.

    Raises ConfigError, PlatformError.
    """
    try:
        return bool(json.loads(storage.read_bytes(LAUNCHED)))
    except FileNotFoundError:
        return False


def own_namespace() -> str:
    """The namespace of this pod; empty outside a cluster."""
    token = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    if name := os.environ.get(NAMESPACE_VARIABLE):
        return name
    return token.read_text("utf-8").strip() if token.is_file() else ""


def owner_of_jobs(namespace: str, get: Callable[[str], dict[str, Any]]) -> Owner | None:
    """What takes this step's jobs with it when it is deleted; None outside Kubeflow.

    An owner in another namespace would count as deleted, and the job would be too.
    """
    name, uid = os.environ.get(POD_NAME_VARIABLE), os.environ.get(POD_UID_VARIABLE)
    if not name or not uid or (namespace and namespace != own_namespace()):
        return None
    try:
        return owner_from_pod(get(f"/api/v1/namespaces/{own_namespace()}/pods/{name}"))
    except RLVRError as error:
        logger.warning("the workflow of pod %s is not known: %s", name, error)
        return Owner("v1", "Pod", name, uid)


def owner_from_pod(pod: dict[str, Any]) -> Owner:
    """The Workflow that a step's pod belongs to, or else the pod itself."""
    metadata = pod["metadata"]
    for reference in metadata.get("ownerReferences") or ():
        if reference["kind"] == "Workflow":
            return Owner(
                reference["apiVersion"], reference["kind"], reference["name"], reference["uid"]
            )
    return Owner("v1", "Pod", metadata["name"], metadata["uid"])
