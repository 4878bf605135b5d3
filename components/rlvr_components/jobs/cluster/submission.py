"""Create exactly one job for a name, even if the answer to the request is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from rlvr_components.jobs.kinds import Kind, Object, missing_rights, not_installed
from rlvr_components.jobs.pods import JOB_LABEL, SPEC_HASH_ANNOTATION
from rlvr_components.kubernetes.api_errors import ROLE, ObjectNotFound, Outage, Refusal
from rlvr_components.kubernetes.client import (
    CONFLICT,
    KubernetesApi,
    delays,
    pause,
    retry_delay,
)
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

logger = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""Time for which the creation of a job is retried."""
GONE_TIMEOUT_S = 300.0
"""Time for an earlier job of the same name, and its pods, to terminate."""
GONE_INTERVAL_S = 1.0


def create_or_find(
    api: KubernetesApi,
    kind: Kind,
    rendered: Mapping[str, Any],
    is_stopped: Callable[[], bool],
    *,
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """Create the job, or adopt the one that an earlier request created from the same spec.

    Waits for terminating pods of an earlier job of its name, since its own pods need their names.
    Raises ConfigError if another job has its name, PlatformError, JobFailed if stopped.
    """
    namespace, name = rendered["metadata"]["namespace"], rendered["metadata"]["name"]
    path = kind.path(namespace, name)
    _await_pods_gone(api, kind, namespace, name, is_stopped)
    deadline = time.monotonic() + patience_s
    for delay_s in delays():
        if is_stopped():
            api.delete(path, patience_s=0.0)
            raise JobFailed("stopped before the job was submitted", exit_code=EXIT_PREEMPTED)
        try:
            return api.create(kind.path(namespace), rendered, patience_s=0.0)
        except Refusal as error:
            if error.status != CONFLICT:
                raise
            failure: Refusal | Outage = error
        except Outage as error:
            failure = error
            logger.warning("%s", error)
        # the request may have been accepted all the same
        existing = _find(api, path)
        if existing and "deletionTimestamp" in existing["metadata"]:
            _await_gone(api, path, name, is_stopped)
            _await_pods_gone(api, kind, namespace, name, is_stopped)
            continue
        if existing:
            _check_same_spec(kind, rendered, existing)
            return existing
        if isinstance(failure, Outage):
            delay_s = retry_delay(failure, delay_s)
        if time.monotonic() + delay_s > deadline:
            raise failure
        pause(delay_s, is_stopped)
    raise AssertionError("delays() is infinite")


def _find(api: KubernetesApi, path: str) -> dict[str, Any] | None:
    try:
        return api.get(path)
    except ObjectNotFound:
        return None


def _check_same_spec(kind: Kind, rendered: Mapping[str, Any], existing: Object) -> None:
    ours, metadata = rendered["metadata"], existing["metadata"]
    labels = metadata.get("labels") or {}
    our_hash = ours["annotations"][SPEC_HASH_ANNOTATION]
    their_hash = (metadata.get("annotations") or {}).get(SPEC_HASH_ANNOTATION, "none")
    where = f"the {kind.name} {ours['name']} in {ours['namespace']}"
    if labels.get(JOB_LABEL) != ours["labels"][JOB_LABEL]:
        raise ConfigError(f"{where} exists and was not created by rlvr; delete or rename it")
    if their_hash != our_hash:
        raise ConfigError(
            f"{where} exists with another spec (hash {their_hash}, ours is {our_hash}); stop it "
            "first (`rlvr stop`)"
        )


def _await_gone(api: KubernetesApi, path: str, name: str, is_stopped: Callable[[], bool]) -> None:
    """Wait until the earlier job of this name is gone."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    logger.info("%s is terminating; the new job is created after that", name)
    while _find(api, path) is not None:
        if is_stopped():
            return
        if time.monotonic() > deadline:
            raise PlatformError(
                f"{name} has been terminating for {GONE_TIMEOUT_S:.0f} s; remove what its "
                "finalizers wait for, and start again"
            )
        pause(GONE_INTERVAL_S, is_stopped)


def _await_pods_gone(
    api: KubernetesApi, kind: Kind, namespace: str, name: str, is_stopped: Callable[[], bool]
) -> None:
    """Wait up to GONE_TIMEOUT_S for terminating pods of an earlier job of this name."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    query = {"labelSelector": f"{kind.job_label}={name}"}
    is_logged = False
    while not is_stopped():
        try:
            pods = api.list(f"/api/v1/namespaces/{namespace}/pods", query, patience_s=0.0)
        except Outage:  # creating waits for the server, and the operator for the pods
            return
        terminating = [
            str(pod["metadata"]["name"])
            for pod in pods["items"]
            if "deletionTimestamp" in pod["metadata"]
        ]
        if not terminating:
            return
        if time.monotonic() > deadline:
            logger.warning(
                "still terminating after %.0f s: %s", GONE_TIMEOUT_S, ", ".join(terminating)
            )
            return
        if not is_logged:
            logger.info(
                "waiting for %s to terminate, pods of an earlier %s", ", ".join(terminating), name
            )
            is_logged = True
        pause(GONE_INTERVAL_S, is_stopped)


def check_permissions(api: KubernetesApi, kind: Kind, namespace: str) -> None:
    """Raise ConfigError if the kind is not installed or a right is missing; PlatformError."""
    try:
        api.get(kind.path(namespace), {"limit": 1})
    except ObjectNotFound:
        raise not_installed(kind) from None
    for plural in ("pods", "events"):
        api.get(f"/api/v1/namespaces/{namespace}/{plural}", {"limit": 1})
    missing = missing_rights(api, kind, namespace)
    if missing:
        raise ConfigError(
            f"{api.access.origin} may not {', '.join(missing)} in {namespace}; bind the Role "
            f"rlvr-launcher there ({ROLE})"
        )
