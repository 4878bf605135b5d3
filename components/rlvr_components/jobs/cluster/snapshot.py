"""Request jobs with their pods, events and Kueue Workloads from the API server."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr_components.jobs.cluster.job_status import belongs, status_of, summary_of
from rlvr_components.jobs.cluster.pending import event_time
from rlvr_components.jobs.job import JobStatus, JobSummary
from rlvr_components.jobs.kinds import KINDS, Kind, Object, not_installed
from rlvr_components.kubernetes.api_errors import ObjectNotFound, Refusal
from rlvr_components.kubernetes.client import KubernetesApi, Query
from rlvr_trainer.errors import RLVRError

logger = logging.getLogger(__name__)

KUEUE = "/apis/kueue.x-k8s.io"
SECONDS = len("2026-11-25T03:00:00")
JOB_UID_LABEL = "kueue.x-k8s.io/job-uid"
"""Kueue's label of a Workload that holds its job's UID."""


@dataclass(frozen=True)
class Snapshot:
    """A job, its pods, their events, and its Kueue Workloads."""

    kind: Kind
    job: dict[str, Any]
    pods: Sequence[dict[str, Any]] = ()
    events: Sequence[dict[str, Any]] = ()
    workloads: Sequence[dict[str, Any]] = field(default=())

    @property
    def status(self) -> JobStatus:
        """Return the job's status."""
        return status_of(self.kind, self.job, self.pods, self.events, self.workloads)


def take_snapshot(api: KubernetesApi, kind: Kind, job: dict[str, Any]) -> Snapshot:
    """Request the pods, events and Workloads of one job. Raises Refusal, Outage."""
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    listed = api.list(
        f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": f"{kind.job_label}={name}"}
    )
    events = api.list(f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": WARNINGS})
    return Snapshot(
        kind,
        job,
        [pod for pod in listed["items"] if belongs(job, pod)],
        [event for event in events["items"] if is_about(job, event)],
        workloads_of(api, kind, job),
    )


WARNINGS = "type=Warning"
"""Field selector of the events that matter."""


def is_about(job: Object, event: Object) -> bool:
    """Return True if the event is about the job, or about an object named after it.

    Events of an earlier job of the same name do not count.
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
    """Return True if it was last seen before that time, to the second; False without a time."""
    # it was seen by the clock of a node, which may be behind that of the API server
    times = (event_time(event), str(event.get("metadata", {}).get("creationTimestamp", "")))
    last = max(stamp[:SECONDS] for stamp in times)
    return bool(last) and last < created[:SECONDS]


def workloads_of(api: KubernetesApi, kind: Kind, job: Object) -> list[dict[str, Any]]:
    """Return the Kueue Workloads of a suspended job; none if they may not be read."""
    if not kind.is_suspended(job):
        return []
    namespace, uid = job["metadata"]["namespace"], job["metadata"]["uid"]
    try:
        version = api.get(KUEUE)["preferredVersion"]["groupVersion"]
        path = f"/apis/{version}/namespaces/{namespace}/workloads"
        listing = api.get(path, {"labelSelector": f"{JOB_UID_LABEL}={uid}"})
    except (Refusal, KeyError):
        return []
    workloads: list[dict[str, Any]] = listing.get("items") or []
    return workloads


def annotate(api: KubernetesApi, kind: Kind, job: Object, annotations: dict[str, str]) -> None:
    """Write annotations; log failures and never raise them."""
    metadata = job["metadata"]
    path = kind.path(metadata["namespace"], metadata["name"])
    # the precondition keeps a later job of the same name unchanged
    patch = {"metadata": {"uid": metadata["uid"], "annotations": annotations}}
    try:
        api.merge(path, patch, patience_s=0.0)
    except RLVRError as error:
        logger.debug("annotations of %s were not written: %s", metadata["name"], error)


def summaries(
    api: KubernetesApi, namespace: str, selector: str, *, name: str = ""
) -> list[JobSummary]:
    """Return the jobs that the selector chooses; with `name`, only the one of that name.

    Raises ConfigError, PlatformError.
    """
    jobs = _jobs(api, namespace, selector, name)
    if not jobs:
        return []
    core = f"/api/v1/namespaces/{namespace}"
    events = api.list(f"{core}/events", {"fieldSelector": WARNINGS})["items"]
    pods: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for kind in {kind.name: kind for kind, _ in jobs}.values():
        only = f"{kind.job_label}={name}" if name else kind.job_label
        for pod in api.list(f"{core}/pods", {"labelSelector": only})["items"]:
            pods.setdefault((kind.name, pod["metadata"]["labels"][kind.job_label]), []).append(pod)
    now = time.time()
    return [
        summary_of(
            kind,
            job,
            [
                pod
                for pod in pods.get((kind.name, job["metadata"]["name"]), ())
                if belongs(job, pod)
            ],
            [event for event in events if is_about(job, event)],
            workloads_of(api, kind, job),
            now,
        )
        for kind, job in jobs
    ]


def _jobs(
    api: KubernetesApi, namespace: str, selector: str, name: str
) -> list[tuple[Kind, Object]]:
    query: Query = {"labelSelector": selector}
    if name:
        query = {**query, "fieldSelector": f"metadata.name={name}"}
    jobs: list[tuple[Kind, Object]] = []
    num_known = 0
    for kind in KINDS.values():
        try:
            listed = api.list(kind.path(namespace), query)
        except ObjectNotFound:  # the cluster has no such kind
            continue
        num_known += 1
        jobs += [(kind, job) for job in listed["items"]]
    if not num_known:
        raise not_installed(*KINDS.values())
    return jobs
