"""Jobs of rlvr in a namespace, of every kind, by a handful of requests however many they are."""

from __future__ import annotations

import time
from typing import Any

from rlvr_components.jobs import JobSummary
from rlvr_components.jobs.kube.client import Client, Query
from rlvr_components.jobs.kube.errors import Refusal
from rlvr_components.jobs.kube.kinds import KINDS, Kind, Object
from rlvr_components.jobs.kube.snapshot import WARNINGS, is_about, workloads_of
from rlvr_components.jobs.kube.status import belongs, summary_of
from rlvr_trainer.errors import ConfigError

PART_OF_RLVR = "app.kubernetes.io/part-of=rlvr"


def summaries(client: Client, namespace: str, selector: str, *, name: str = "") -> list[JobSummary]:
    """The jobs that the selector chooses, or of these the one of that name.

    Raises ConfigError, PlatformError.
    """
    jobs = _jobs(client, namespace, selector, name)
    if not jobs:
        return []
    core = f"/api/v1/namespaces/{namespace}"
    events = client.list(f"{core}/events", {"fieldSelector": WARNINGS})["items"]
    pods: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for kind in {kind.name: kind for kind, _ in jobs}.values():
        only = f"{kind.job_label}={name}" if name else kind.job_label
        for pod in client.list(f"{core}/pods", {"labelSelector": only})["items"]:
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
            workloads_of(client, kind, job),
            now,
        )
        for kind, job in jobs
    ]


def _jobs(client: Client, namespace: str, selector: str, name: str) -> list[tuple[Kind, Object]]:
    query: Query = {"labelSelector": selector}
    if name:
        query = {**query, "fieldSelector": f"metadata.name={name}"}
    found: list[tuple[Kind, Object]] = []
    num_known = 0
    for kind in KINDS.values():
        try:
            listed = client.list(kind.path(namespace), query)
        except Refusal as error:
            if error.status != 404:
                raise
            continue  # the cluster has no such kind
        num_known += 1
        found += [(kind, job) for job in listed["items"]]
    if not num_known:
        needs = " or ".join(kind.needs for kind in KINDS.values())
        raise ConfigError(
            f"the cluster knows no {' and no '.join(kind.name for kind in KINDS.values())}; "
            f"install {needs}, see manifests/README.md"
        )
    return found
