"""Derive the status of a job from the job, its pods and their events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rlvr_components.jobs.cluster.job_causes import job_failure, pod_failure, pod_failures
from rlvr_components.jobs.cluster.pending import PendingReason, pending_reason
from rlvr_components.jobs.job import JobStatus, JobSummary, Replica
from rlvr_components.jobs.kinds import Kind, Object, condition
from rlvr_components.jobs.pods import (
    ATTEMPT_LABEL,
    CAUSE_ANNOTATION,
    EXIT_CODE_ANNOTATION,
    PHASE_ANNOTATION,
    PIPELINE_RUN_LABEL,
    PROGRESS_STEP_ANNOTATION,
    REWARD_ANNOTATION,
    RUN_DIR_ANNOTATION,
    RUN_LABEL,
    STEP_LABEL,
)
from rlvr_trainer.launch.exit_causes import RETRIED


def status_of(
    kind: Kind,
    job: Object,
    pods: Sequence[Object],
    events: Sequence[Object] = (),
    workloads: Sequence[Object] = (),
) -> JobStatus:
    """Return phase, replicas, and the cause of a failure or the pending reason."""
    replicas = tuple(_replica(kind, pod) for pod in sorted(pods, key=kind.replica_name))
    if condition(job, kind.succeeded):
        return JobStatus("succeeded", 0, replicas=replicas)
    failure = _annotated_failure(job) or job_failure(kind, job, pods)
    if failure:
        cause, exit_code = failure
        return failed(exit_code, cause, replicas)
    if runs_in_full(kind, job, pods):
        return JobStatus("running", replicas=replicas)
    reason = pending_reason(kind, job, pods, events, workloads)
    return JobStatus("pending", cause=_pending_cause(kind, pods, reason), replicas=replicas)


def failed(exit_code: int, cause: str, replicas: tuple[Replica, ...] = ()) -> JobStatus:
    """Return a failed status, which is retried if its exit code is in RETRIED."""
    return JobStatus("failed", exit_code, cause, replicas, is_retried=exit_code in RETRIED)


def runs_in_full(kind: Kind, job: Object, pods: Sequence[Object]) -> bool:
    """Return True if every replica runs or has succeeded."""
    at_work = [
        pod for pod in pods if pod.get("status", {}).get("phase") in ("Running", "Succeeded")
    ]
    return len(at_work) >= kind.num_replicas(job) and not kind.is_suspended(job)


def _pending_cause(kind: Kind, pods: Sequence[Object], reason: PendingReason | None) -> str:
    """Return the pending reason, or the failure after which pods restart."""
    if reason and reason.limit != "start":
        return reason.cause
    failures = pod_failures(kind, pods)
    if failures:
        return f"{'starts again' if kind.replaces_pods else 'terminates'} after {failures[0]}"
    return reason.cause if reason else ""


def _annotated_failure(job: Object) -> tuple[str, int] | None:
    """Return the failure that a launcher wrote into annotations, since the pods may be gone."""
    annotations = job["metadata"].get("annotations") or {}
    if not condition(job, "Failed") or CAUSE_ANNOTATION not in annotations:
        return None
    return str(annotations[CAUSE_ANNOTATION]), int(annotations.get(EXIT_CODE_ANNOTATION) or 1)


def _replica(kind: Kind, pod: Object) -> Replica:
    status = pod.get("status", {})
    failure = pod_failure(kind, pod)
    statuses = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    waiting = [
        container["state"]["waiting"]
        for container in statuses
        if "waiting" in container.get("state", {})
    ]
    reason = failure.cause if failure else str(waiting[0].get("reason", "")) if waiting else ""
    if not reason and pod["metadata"].get("deletionTimestamp"):
        reason = "Terminating"
    return Replica(
        name=kind.replica_name(pod),
        phase=str(status.get("phase", "Unknown")),
        node=str(pod.get("spec", {}).get("nodeName", "")),
        reason=reason,
        num_restarts=sum(int(container.get("restartCount", 0)) for container in statuses),
    )


def summary_of(
    kind: Kind,
    job: Object,
    pods: Sequence[Object],
    events: Sequence[Object],
    workloads: Sequence[Object],
    now: float,
) -> JobSummary:
    """Return the job's summary; `now` is in seconds since 1970."""
    metadata = job["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    status = status_of(kind, job, pods, events, workloads)
    return JobSummary(
        name=metadata["name"],
        kind=kind.name,
        namespace=metadata["namespace"],
        run=labels.get(RUN_LABEL, ""),
        step=labels.get(STEP_LABEL, ""),
        attempt=attempt_of(job),
        phase=status.phase,
        cause=status.cause,
        exit_code=status.exit_code,
        progress_step=annotations.get(PROGRESS_STEP_ANNOTATION, ""),
        reward=annotations.get(REWARD_ANNOTATION, ""),
        progress_phase=annotations.get(PHASE_ANNOTATION, ""),
        run_id=labels.get(PIPELINE_RUN_LABEL, ""),
        run_dir=annotations.get(RUN_DIR_ANNOTATION, ""),
        created=metadata["creationTimestamp"],
        age_s=max(0.0, now - epoch(metadata["creationTimestamp"])),
        replicas=status.replicas,
        is_stopping="deletionTimestamp" in metadata,
    )


def attempt_of(job: Object) -> int:
    """Return the attempt's number, from 1."""
    number = (job["metadata"].get("labels") or {}).get(ATTEMPT_LABEL, "1")
    return int(number) if number.isdecimal() else 1


def belongs(job: Object, pod: Object) -> bool:
    """Return False for a pod of an earlier job of the same name."""
    return bool(pod["metadata"]["creationTimestamp"] >= job["metadata"]["creationTimestamp"])


def epoch(timestamp: str) -> float:
    """Return seconds since 1970 for Kubernetes' `2026-11-25T03:00:00Z`."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
