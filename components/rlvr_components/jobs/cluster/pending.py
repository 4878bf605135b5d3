"""Find the pending reason of a job that does not run with all of its replicas. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlvr_components.jobs.cluster.job_causes import (
    EXIT_INFRASTRUCTURE,
    one_line,
    termination_message,
)
from rlvr_components.jobs.kinds import Kind, Object
from rlvr_components.jobs.pytorchjob import QUEUE_LABEL
from rlvr_trainer.errors import ConfigError

MOUNT_REASONS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
CONFIGURATION_REASONS = {
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"}

KUEUE_WAITS = (("QuotaReserved", "False"), ("Admitted", "False"), ("Evicted", "True"))
NAME_TAKEN = re.compile("already exists|is being deleted")
"""Matches the operator's message about a pod whose predecessor still commits a checkpoint."""
ORDER = ("grace", "queue", "start")
"""Most serious first; only the first is reported."""


@dataclass(frozen=True)
class PendingReason:
    """The reason for which a job does not run yet."""

    cause: str
    exit_code: int = EXIT_INFRASTRUCTURE
    """Exit code if the limit is exceeded."""
    limit: Literal["grace", "queue", "start"] = "queue"
    """`grace`: rarely passes, so it fails after start_grace_s; `queue`: may pass until the queue's
    deadline; `start`: part of every start, otherwise as `queue`."""


def pending_reason(
    kind: Kind,
    job: Object,
    pods: Sequence[Object],
    events: Sequence[Object] = (),
    workloads: Sequence[Object] = (),
) -> PendingReason | None:
    """Return the most serious reason; None if the job runs with all of its replicas."""
    if kind.is_suspended(job):
        return _of_suspended_job(job, events, workloads)
    reasons = [reason for pod in pods if (reason := _of_pod(kind, pod, events))]
    if len(pods) < kind.num_replicas(job):
        reasons.append(_of_missing_pods(kind, job, pods, events))
    return min(reasons, key=lambda reason: ORDER.index(reason.limit), default=None)


def _of_suspended_job(
    job: Object, events: Sequence[Object], workloads: Sequence[Object]
) -> PendingReason:
    queue = job["metadata"].get("labels", {}).get(QUEUE_LABEL)
    if not queue:
        return PendingReason("the job is suspended, and no queue resumes it; set suspend to false")
    conditions = [
        condition
        for workload in workloads
        for condition in workload.get("status", {}).get("conditions") or ()
        if (condition.get("type"), condition.get("status")) in KUEUE_WAITS
    ]
    said = [one_line(condition.get("message", "")) for condition in conditions] or [
        one_line(event.get("message", "")) for event in _newest(events, ("Pending",), "Workload")
    ]
    text = f"Kueue: pending in queue {queue}"
    return PendingReason(f"{text}: {said[0]}" if said and said[0] else text)


def _of_missing_pods(
    kind: Kind, job: Object, pods: Sequence[Object], events: Sequence[Object]
) -> PendingReason:
    for event in _newest(events, ("FailedCreatePod", "FailedCreate")):
        message = one_line(event.get("message", ""))
        if "exceeded quota" in message:
            return PendingReason(f"quota: {message}; wait for other jobs, or ask for more")
        if NAME_TAKEN.search(message):
            text = f"waits until the pods of an earlier job of its name have terminated: {message}"
            return PendingReason(text, limit="start")
        return PendingReason(
            f"the cluster refuses the job's pods: {message}; correct the platform's settings",
            ConfigError.exit_code,
            "grace",
        )
    missing = kind.num_replicas(job) - len(pods)
    return PendingReason(f"waits for the operator to create {missing} pods", limit="start")


def _of_pod(kind: Kind, pod: Object, events: Sequence[Object]) -> PendingReason | None:
    status, replica = pod.get("status", {}), kind.replica_name(pod)
    if status.get("phase") in ("Succeeded", "Failed"):
        return None
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return PendingReason(
                f"{replica}: {condition.get('reason')}: {one_line(condition.get('message', ''))}"
            )
    for container in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _of_container(replica, pod, container, waiting, events)
    for event in _newest(events, MOUNT_REASONS, "Pod", str(pod["metadata"]["name"])):
        return PendingReason(f"{replica}: {event['reason']}: {one_line(event.get('message', ''))}")
    for container in status.get("initContainerStatuses") or ():
        if "running" in container.get("state", {}):
            return PendingReason(
                f"{replica}: its init container {container['name']} waits for another replica",
                limit="start",
            )
    if status.get("phase") != "Running":
        return PendingReason(f"{replica}: its container is being created", limit="start")
    return None


def _of_container(
    replica: str, pod: Object, container: Object, waiting: Object, events: Sequence[Object]
) -> PendingReason:
    reason, said = str(waiting["reason"]), one_line(waiting.get("message", ""))
    if reason in IMAGE_REASONS:
        # the message of a back-off lacks the reason, which the event before it has
        name = str(pod["metadata"]["name"])
        for event in _newest(events, ("Failed",), "Pod", name):
            if "pull image" in event.get("message", ""):
                said = one_line(event["message"])
                break
        image = container.get("image", "")
        text = f"{replica}: {reason}: {said or image}; correct image or image_pull_secrets in the "
        return PendingReason(text + "platform's settings", ConfigError.exit_code, "grace")
    if reason in CONFIGURATION_REASONS:
        text = f"{replica}: {reason}: {said}; correct the platform's settings"
        return PendingReason(text, ConfigError.exit_code, "grace")
    if reason == "CrashLoopBackOff":
        last = container.get("lastState", {}).get("terminated") or {}
        message = termination_message(last.get("message", "")).get("cause") or one_line(
            last.get("message", "")
        )
        return PendingReason(f"{replica}: CrashLoopBackOff: {message or said}", limit="grace")
    return PendingReason(f"{replica}: {reason}: {said}")


def _newest(
    events: Sequence[Object], reasons: tuple[str, ...], kind: str = "", name: str = ""
) -> list[Object]:
    """Return the events with one of these reasons, newest first."""
    matching = [
        event
        for event in events
        if event.get("reason") in reasons
        and (not kind or event.get("involvedObject", {}).get("kind") == kind)
        and (not name or event.get("involvedObject", {}).get("name") == name)
    ]
    return sorted(matching, key=event_time, reverse=True)


def event_time(event: Object) -> str:
    """Return the time when the event was last seen."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("metadata", {}).get("creationTimestamp", "")
    )
