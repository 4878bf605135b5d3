"""One job for one name, whatever happens to the request that creates it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from rlvr_components.jobs.kube import names
from rlvr_components.jobs.kube.client import Client, delays, pause, wanted_delay
from rlvr_components.jobs.kube.errors import Outage, Refusal
from rlvr_components.jobs.kube.kinds import Kind
from rlvr_components.jobs.pods import JOB_LABEL
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

logger = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""How long a job is tried to be created."""
GONE_TIMEOUT_S = 300.0
"""How long an earlier job of the same name, and its pods, may take to end."""
GONE_INTERVAL_S = 1.0


def create_or_find(
    client: Client,
    kind: Kind,
    rendered: Mapping[str, Any],
    is_stopped: Callable[[], bool],
    *,
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """Create the job; one of its name and spec is the one that an earlier request created.

    Pods of an earlier job of its name are awaited, since they have the names that its own need.
    Raises ConfigError for a job of its name that is another one, PlatformError, JobFailed when
    stopped.
    """
    namespace, name = rendered["metadata"]["namespace"], rendered["metadata"]["name"]
    path = kind.path(namespace, name)
    _await_pods_gone(client, kind, namespace, name, is_stopped)
    deadline = time.monotonic() + patience_s
    for delay_s in delays():
        if is_stopped():
            client.delete(path, patience_s=0.0)
            raise JobFailed("stopped before the job was submitted", exit_code=EXIT_PREEMPTED)
        try:
            return client.create(kind.path(namespace), rendered)
        except Refusal as error:
            if error.status != 409:
                raise
            failure: Refusal | Outage = error
        except Outage as error:
            failure = error
            logger.warning("%s", error)
        # it may have been accepted all the same
        found = _find(client, path)
        if found and "deletionTimestamp" in found["metadata"]:
            _await_gone(client, path, name, is_stopped)
            _await_pods_gone(client, kind, namespace, name, is_stopped)
            continue
        if found:
            return _checked(kind, rendered, found)
        if isinstance(failure, Outage):
            delay_s = wanted_delay(failure, delay_s)
        if time.monotonic() + delay_s > deadline:
            raise failure
        pause(delay_s, is_stopped)
    raise AssertionError("delays never end")


def _find(client: Client, path: str) -> dict[str, Any] | None:
    try:
        return client.get(path)
    except Refusal as error:
        if error.status == 404:
            return None
        raise


def _checked(kind: Kind, rendered: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    wanted, metadata = rendered["metadata"], found["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    where = f"the {kind.name} {wanted['name']} in {wanted['namespace']}"
    if labels.get(JOB_LABEL) != wanted["labels"][JOB_LABEL]:
        raise ConfigError(f"{where} exists and is not one of rlvr's; delete or rename it")
    if annotations.get(names.SPEC_HASH) != wanted["annotations"][names.SPEC_HASH]:
        raise ConfigError(
            f"{where} exists with another spec (hash {annotations.get(names.SPEC_HASH, 'none')}, "
            f"ours is {wanted['annotations'][names.SPEC_HASH]}); stop it first (`rlvr stop`)"
        )
    return found


def _await_gone(client: Client, path: str, name: str, is_stopped: Callable[[], bool]) -> None:
    """Until the old job of this name is deleted for good."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    logger.info("%s is being deleted; the new one is created after that", name)
    while _find(client, path) is not None:
        if is_stopped():
            return
        if time.monotonic() > deadline:
            raise PlatformError(
                f"{name} has been being deleted for {GONE_TIMEOUT_S:.0f} s; something holds it "
                "(its finalizers say what), free it and start again"
            )
        pause(GONE_INTERVAL_S, is_stopped)


def _await_pods_gone(
    client: Client, kind: Kind, namespace: str, name: str, is_stopped: Callable[[], bool]
) -> None:
    """Until no pod of an earlier job of this name is ending, within reason."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    query = {"labelSelector": f"{kind.job_label}={name}"}
    has_told = False
    while not is_stopped():
        try:
            pods = client.list(f"/api/v1/namespaces/{namespace}/pods", query, patience_s=0.0)
        except Outage:  # the create waits for the server, and the operator for the pods
            return
        ending = [
            str(pod["metadata"]["name"])
            for pod in pods["items"]
            if "deletionTimestamp" in pod["metadata"]
        ]
        if not ending:
            return
        if time.monotonic() > deadline:
            logger.warning("after %.0f s there still are %s", GONE_TIMEOUT_S, ", ".join(ending))
            return
        if not has_told:
            logger.info("%s end first, pods of an earlier %s", ", ".join(ending), name)
            has_told = True
        pause(GONE_INTERVAL_S, is_stopped)
