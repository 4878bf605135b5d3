"""The Argo Workflow that this step's pod belongs to."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from rlvr_components.kubernetes.api_errors import ObjectNotFound
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.pipeline_run import (
    POD_NAME_VARIABLE,
    in_kubeflow,
    own_namespace,
    owner_from_pod,
)
from rlvr_components.workflow import is_ending
from rlvr_trainer.errors import ConfigError, RLVRError

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""Patience with the API server after a signal; Kubernetes kills the pod after 30 s."""


def workflow_path(get: Callable[[str], dict[str, Any]]) -> str:
    """Return the API server's path of this pod's Workflow; `get` returns the object of a path.

    Raises ConfigError if the pod belongs to none, or as `get` does.
    """
    namespace = own_namespace()
    pod = get(f"/api/v1/namespaces/{namespace}/pods/{os.environ[POD_NAME_VARIABLE]}")
    owner = owner_from_pod(pod)
    if owner.kind != "Workflow":
        raise ConfigError(f"this pod belongs to the {owner.kind} {owner.name}, not to a Workflow")
    return f"/apis/{owner.api_version}/namespaces/{namespace}/workflows/{owner.name}"


def run_ending() -> Callable[[], bool]:
    """Return a function that returns True if a signal that this pod just got ends the whole run.

    It returns False if the pod alone is lost (evicted, drained, deleted), and if the Workflow
    cannot be read: the last step of a terminated run deletes its jobs, too. A signal handler may
    call it. Outside Kubeflow there is no other attempt, so that each signal ends its run.
    """
    if not in_kubeflow():
        return lambda: True
    api = KubernetesApi()
    try:
        path = workflow_path(api.get)
    except RLVRError as error:
        logger.warning("a signal stops the job of this step, since %s", error)
        return lambda: True

    def is_run_ending() -> bool:
        try:
            return is_ending(api.get(path, patience_s=PATIENCE_S), time.time())
        except ObjectNotFound:
            return True
        except RLVRError:
            return False

    return is_run_ending
