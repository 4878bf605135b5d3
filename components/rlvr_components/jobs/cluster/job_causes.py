"""Find the first real cause of a job's failure, from the job and its pods. Pure.

The cause and exit code that the container wrote (`rlvr_trainer.launch`) precede those of
Kubernetes. The pod that failed first is the cause; pods that only lost their peers come last.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_components.jobs.kinds import Kind, Object, condition
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError
from rlvr_trainer.launch.exit_causes import EXIT_OUT_OF_MEMORY, FIRST_SIGNAL_CODE

EXIT_INFRASTRUCTURE = PlatformError.exit_code
FOLLOWED = ("another node failed: ", "the nodes did not meet: ")
"""Beginnings of causes of pods that lost their peers."""
NO_PODS_LEFT = "none of its pods is left, and its cause is not known"
NEVER_STARTED = {"StartError", "ContainerCannotRun"}
MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class PodFailure:
    """The cause of a pod's failure."""

    replica: str
    cause: str
    exit_code: int
    time: str = ""
    """Time of the termination, as Kubernetes writes it."""
    is_follower: bool = False
    """True if the pod only lost its peers, or was stopped by SIGTERM."""

    def __str__(self) -> str:
        return f"{self.replica}: {self.cause}"


def first_failure(kind: Kind, pods: Sequence[Object]) -> PodFailure | None:
    """Return the failure that made the other pods fail."""
    return min(pod_failures(kind, pods), key=_order, default=None)


def pod_failures(kind: Kind, pods: Sequence[Object]) -> list[PodFailure]:
    """Return the failures of those pods that failed."""
    return [failure for pod in pods if (failure := pod_failure(kind, pod))]


def _order(failure: PodFailure) -> tuple[bool, str, bool, str]:
    is_passing = failure.exit_code >= FIRST_SIGNAL_CODE
    return (failure.is_follower, failure.time or "9", is_passing, failure.replica)


def pod_failure(kind: Kind, pod: Object) -> PodFailure | None:
    """Return the pod's failure; None while it runs and after success."""
    status = pod.get("status", {})
    replica = kind.replica_name(pod)
    main = _container_status(status.get("containerStatuses"), kind.container)
    terminated = (main or {}).get("state", {}).get("terminated")
    if terminated and terminated.get("exitCode"):
        return _container_failure(kind, replica, pod, terminated)
    if status.get("phase") != "Failed":
        return None
    time = str((terminated or {}).get("finishedAt") or _transition_time(status))
    for init in status.get("initContainerStatuses") or ():
        failed = init.get("state", {}).get("terminated") or {}
        if failed.get("exitCode"):
            said = one_line(failed.get("message") or failed.get("reason", ""))
            cause = f"its init container {init['name']} exited with {failed['exitCode']}: {said}"
            return PodFailure(
                replica, cause, EXIT_INFRASTRUCTURE, str(failed.get("finishedAt", time))
            )
    return PodFailure(replica, _lost(pod), EXIT_INFRASTRUCTURE, time)


def _container_failure(kind: Kind, replica: str, pod: Object, terminated: Object) -> PodFailure:
    time, code = str(terminated.get("finishedAt") or ""), int(terminated["exitCode"])
    said = termination_message(terminated.get("message", ""))
    if said:
        cause, code = str(said["cause"]), int(said["exit_code"])
        follows = cause.startswith(FOLLOWED) or code == EXIT_PREEMPTED
        return PodFailure(replica, cause, code, time, follows)
    if terminated.get("reason") == "OOMKilled":
        return PodFailure(replica, out_of_memory(kind, pod), EXIT_OUT_OF_MEMORY, time)
    reason = terminated.get("reason", "")
    if reason == "ContainerStatusUnknown" or _disruption(pod):
        return PodFailure(replica, _lost(pod), EXIT_INFRASTRUCTURE, time)
    if reason in NEVER_STARTED:
        # the operator would replace its pod for ever
        cause = f"the container cannot start: {one_line(terminated.get('message', ''))}"
        return PodFailure(replica, cause, ConfigError.exit_code, time)
    if code < FIRST_SIGNAL_CODE:
        said_by_log = one_line(terminated.get("message", ""))
        more = f": {said_by_log}" if said_by_log else " and wrote no cause; see its log"
        if reason not in ("", "Error", "Completed"):
            more = f" ({reason}){more}"
        return PodFailure(replica, f"the container exited with code {code}{more}", code, time)
    if code == EXIT_PREEMPTED:
        return PodFailure(replica, "it was stopped by SIGTERM", code, time, is_follower=True)
    cause = f"the container was killed by {_signal_name(code)}, and not by its memory limit"
    return PodFailure(replica, cause, EXIT_INFRASTRUCTURE, time)


def out_of_memory(kind: Kind, pod: Object) -> str:
    """Return the cause of a container that the kernel killed."""
    limit = ""
    for container in pod.get("spec", {}).get("containers") or ():
        if container["name"] == kind.container:
            limit = str(container.get("resources", {}).get("limits", {}).get("memory", ""))
    return (
        f"out of memory (OOMKilled): the container's limit is {limit or 'that of its node'}; raise "
        "memory_gib_per_node in the platform's settings, or lower training.per_device_batch_size "
        "or sampling.max_completion_tokens"
    )


def termination_message(text: str) -> dict[str, Any]:
    """Return launch's message (cause, exit_code, step, node_rank), or an empty dict."""
    try:
        message = json.loads(text)
    except ValueError:
        return {}
    is_ours = isinstance(message, dict) and isinstance(message.get("exit_code"), int)
    return message if is_ours and "cause" in message else {}


def _lost(pod: Object) -> str:
    """Return the cause of a failed pod whose container's status is unknown."""
    status = pod["status"]
    disruption = _disruption(pod)
    if disruption:
        return disruption
    reason, message = status.get("reason", ""), one_line(status.get("message", ""))
    node = pod.get("spec", {}).get("nodeName", "")
    if reason in ("", "NodeLost"):
        return f"its node {node or '(none)'} was lost{f' ({message})' if message else ''}"
    return f"{reason}: {message or 'no message'}" + (f" (node {node})" if node else "")


def _disruption(pod: Object) -> str:
    target = condition(pod, "DisruptionTarget")
    reason = pod["status"].get("reason", "")
    if reason == "Evicted":
        return f"Evicted: {one_line(pod['status'].get('message', ''))}"
    return f"{target.get('reason', '')}: {one_line(target.get('message', ''))}" if target else ""


def job_failure(kind: Kind, job: Object, pods: Sequence[Object]) -> tuple[str, int] | None:
    """Return cause and exit code of a failed job; None if it has not failed."""
    failed = condition(job, "Failed")
    if failed is None:
        return None
    said = one_line(str(failed.get("message", "")))
    if "longer than specified deadline" in said or failed.get("reason") == "DeadlineExceeded":
        return (
            "the job was active for longer than queue_timeout_s and run_timeout_s of the "
            f"platform's settings allow ({said}); raise run_timeout_s, or start the job again",
            JobFailed.exit_code,
        )
    failure = first_failure(kind, pods)
    if failure:
        return str(failure), failure.exit_code
    return f"{said or 'it failed'}; {NO_PODS_LEFT}", JobFailed.exit_code


def _container_status(statuses: Sequence[Object] | None, name: str) -> Object | None:
    for status in statuses or ():
        if status.get("name") == name:
            return status
    return statuses[0] if statuses else None


def _transition_time(status: Mapping[str, Any]) -> str:
    times = [
        str(condition.get("lastTransitionTime", "")) for condition in status.get("conditions") or ()
    ]
    return max(times, default="")


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(code - FIRST_SIGNAL_CODE).name
    except ValueError:
        return f"signal {code - FIRST_SIGNAL_CODE}"


def one_line(text: str) -> str:
    """Return the text on one line, cut to MAX_CHARACTERS."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_CHARACTERS else line[:MAX_CHARACTERS] + " …"
