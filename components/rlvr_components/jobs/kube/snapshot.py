"""A job with all that is known of it, by a few requests at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr_components.jobs import JobStatus
from rlvr_components.jobs.kube.client import Client
from rlvr_components.jobs.kube.errors import Refusal
from rlvr_components.jobs.kube.kinds import Kind, Object
from rlvr_components.jobs.kube.status import belongs, status_of
from rlvr_components.jobs.kube.waits import event_time
from rlvr_trainer.errors import RLVRError

logger = logging.getLogger(__name__)

KUEUE = "/apis/kueue.x-k8s.io"
SECONDS = len("2026-11-25T03:00:00")
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
"""Kueue labels the Workload of a job so."""


@dataclass(frozen=True)
class Snapshot:
    """A job, its pods, what was said about them, and Kueue's view of it."""

    kind: Kind
    job: dict[str, Any]
    pods: Sequence[dict[str, Any]] = ()
    events: Sequence[dict[str, Any]] = ()
    workloads: Sequence[dict[str, Any]] = field(default=())

    @property
    def status(self) -> JobStatus:
        """Where the job stands."""
        return status_of(self.kind, self.job, self.pods, self.events, self.workloads)


def take_snapshot(client: Client, kind: Kind, job: dict[str, Any]) -> Snapshot:
    """All of it about one job. Raises Refusal, Outage."""
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    listed = client.list(
        f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": f"{kind.job_label}={name}"}
    )
    events = client.list(f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": WARNINGS})
    return Snapshot(
        kind,
        job,
        [pod for pod in listed["items"] if belongs(job, pod)],
        [event for event in events["items"] if is_about(job, event)],
        workloads_of(client, kind, job),
    )


WARNINGS = "type=Warning"
"""Of events; the others are the ordinary course."""


def is_about(job: Object, event: Object) -> bool:
    """Whether the event is about the job, or about what is made for it and named after it.

    An earlier job of the same name is another one.
    """
    name, about = str(job["metadata"]["name"]), event.get("involvedObject", {})
    named = str(about.get("name", ""))
    if _is_before(event, str(job["metadata"]["creationTimestamp"])):
        return False
    if named == name and about.get("kind") == job.get("kind") and about.get("uid"):
        return bool(about["uid"] == job["metadata"]["uid"])
    if about.get("kind") == "Workload":  # `pytorchjob-NAME-HASH`
        return f"-{name}-" in named
    return named == name or named.startswith(f"{name}-")


def _is_before(event: Object, created: str) -> bool:
    """Whether it was last seen before that time, to the second; one without a time is not."""
    # when it was seen is by a node's clock, which may be behind that of the API server
    times = (event_time(event), str(event.get("metadata", {}).get("creationTimestamp", "")))
    last = max(each[:SECONDS] for each in times)
    return bool(last) and last < created[:SECONDS]


def workloads_of(client: Client, kind: Kind, job: Object) -> list[dict[str, Any]]:
    """Kueue's Workloads of a job that it holds back; none where they may not be read."""
    if not kind.is_suspended(job):
        return []
    namespace, uid = job["metadata"]["namespace"], job["metadata"]["uid"]
    try:
        version = client.get(KUEUE)["preferredVersion"]["groupVersion"]
        path = f"/apis/{version}/namespaces/{namespace}/workloads"
        found = client.get(path, {"labelSelector": f"{JOB_UID_LABEL}={uid}"})
    except (Refusal, KeyError):
        return []
    listed: list[dict[str, Any]] = found.get("items") or []
    return listed


def annotate(client: Client, kind: Kind, job: Object, annotations: dict[str, str]) -> None:
    """Write annotations; what is lost thereby is no job. Raises nothing."""
    metadata = job["metadata"]
    path = kind.path(metadata["namespace"], metadata["name"])
    # the precondition: a job that took its name is another one
    patch = {"metadata": {"uid": metadata["uid"], "annotations": annotations}}
    try:
        client.merge(path, patch, patience_s=0.0)
    except RLVRError as error:
        logger.debug("annotations of %s are not written: %s", metadata["name"], error)
