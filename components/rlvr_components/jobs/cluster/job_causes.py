"""Find why a job failed: the first real cause, from the job and its pods. Pure.

What the container itself wrote (cause and exit code, by `rlvr_trainer.launch`) goes before what
Kubernetes says of it. Of several pods that failed the first one is the cause; those that only lost
their peers come last.
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
NOBODY_LEFT = "none of its pods is left to say why"
NEVER_STARTED = {"StartError", "ContainerCannotRun"}
MAX_CHARACTERS = 2000


@dataclass(frozen=True)
class PodFailure:
    """How a pod failed."""

    replica: str
    cause: str
    exit_code: int
    time: str = ""
    """Time of the termination, as Kubernetes writes it."""
    is_follower: bool = False
    """The pod only lost its peers, or was told to stop."""

    def __str__(self) -> str:
        return f"{self.replica}: {self.cause}"


def first_failure(kind: Kind, pods: Sequence[Object]) -> PodFailure | None:
    """Return, of all pods that failed, the one that made the others fail."""
    ends = [end for end in (pod_failure(kind, pod) for pod in pods) if end]
    return min(ends, key=_order) if ends else None


def _order(end: PodFailure) -> tuple[bool, str, bool, str]:
    is_passing = end.exit_code >= FIRST_SIGNAL_CODE
    return (end.is_follower, end.time or "9", is_passing, end.replica)


def pod_failure(kind: Kind, pod: Object) -> PodFailure | None:
    """Return how this pod failed; None while it runs and after success."""
    status = pod.get("status", {})
    replica = kind.replica_name(pod)
    main = _container_status(status.get("containerStatuses"), kind.container)
    ended = (main or {}).get("state", {}).get("terminated")
    if ended and ended.get("exitCode"):
        return _container_end(kind, replica, pod, ended)
    if status.get("phase") != "Failed":
        return None
    time = str((ended or {}).get("finishedAt") or _transition_time(status))
    for init in status.get("initContainerStatuses") or ():
        failed = init.get("state", {}).get("terminated") or {}
        if failed.get("exitCode"):
            said = one_line(failed.get("message") or failed.get("reason", ""))
            cause = f"its init container {init['name']} ended with {failed['exitCode']}: {said}"
            return PodFailure(
                replica, cause, EXIT_INFRASTRUCTURE, str(failed.get("finishedAt", time))
            )
    return PodFailure(replica, _lost(pod), EXIT_INFRASTRUCTURE, time)


def _container_end(kind: Kind, replica: str, pod: Object, ended: Object) -> PodFailure:
    time, code = str(ended.get("finishedAt") or ""), int(ended["exitCode"])
    said = termination_message(ended.get("message", ""))
    if said:
        cause, code = str(said["cause"]), int(said["exit_code"])
        follows = cause.startswith(FOLLOWED) or code == EXIT_PREEMPTED
        return PodFailure(replica, cause, code, time, follows)
    if ended.get("reason") == "OOMKilled":
        return PodFailure(replica, out_of_memory(kind, pod), EXIT_OUT_OF_MEMORY, time)
    reason = ended.get("reason", "")
    if reason == "ContainerStatusUnknown" or _disruption(pod):
        return PodFailure(replica, _lost(pod), EXIT_INFRASTRUCTURE, time)
    if reason in NEVER_STARTED:
        # the operator would make its pod anew for ever
        cause = f"the container cannot start: {one_line(ended.get('message', ''))}"
        return PodFailure(replica, cause, ConfigError.exit_code, time)
    if code < FIRST_SIGNAL_CODE:
        said_by_log = one_line(ended.get("message", ""))
        more = f": {said_by_log}" if said_by_log else " and wrote no cause; its log may say why"
        if reason not in ("", "Error", "Completed"):
            more = f" ({reason}){more}"
        return PodFailure(replica, f"the container ended with exit code {code}{more}", code, time)
    if code == EXIT_PREEMPTED:
        return PodFailure(replica, "it was stopped by SIGTERM", code, time, is_follower=True)
    cause = f"the container was killed by {_signal_name(code)}, and not by its memory limit"
    return PodFailure(replica, cause, EXIT_INFRASTRUCTURE, time)


def out_of_memory(kind: Kind, pod: Object) -> str:
    """Return the cause for a container that the kernel killed."""
    limit = ""
    for each in pod.get("spec", {}).get("containers") or ():
        if each["name"] == kind.container:
            limit = str(each.get("resources", {}).get("limits", {}).get("memory", ""))
    return (
        f"out of memory (OOMKilled): the container's limit is {limit or 'that of its node'}; raise "
        "memory_gib_per_node in the platform's settings, or lower training.per_device_batch_size "
        "or sampling.max_completion_tokens"
    )


def termination_message(text: str) -> dict[str, Any]:
    """Return what launch wrote: cause, exit_code, step, node_rank; empty for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    is_ours = isinstance(found, dict) and isinstance(found.get("exit_code"), int)
    return found if is_ours and "cause" in found else {}


def _lost(pod: Object) -> str:
    """Return the cause for a failed pod whose container is unknown."""
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
    found = condition(pod, "DisruptionTarget")
    reason = pod["status"].get("reason", "")
    if reason == "Evicted":
        return f"Evicted: {one_line(pod['status'].get('message', ''))}"
    return f"{found.get('reason', '')}: {one_line(found.get('message', ''))}" if found else ""


def job_failure(kind: Kind, job: Object, pods: Sequence[Object]) -> tuple[str, int] | None:
    """Return cause and exit code of a failed job; None for any other."""
    failed = condition(job, "Failed")
    if failed is None:
        return None
    said = one_line(str(failed.get("message", "")))
    if "longer than specified deadline" in said or failed.get("reason") == "DeadlineExceeded":
        return (
            "the job was active for longer than queue_timeout_s and run_timeout_s of the "
            f"platform's settings allow ({said}); raise run_timeout_s, or start it again",
            JobFailed.exit_code,
        )
    end = first_failure(kind, pods)
    if end:
        return str(end), end.exit_code
    return f"{said or 'it failed'}; {NOBODY_LEFT}", JobFailed.exit_code


def _container_status(statuses: Sequence[Object] | None, name: str) -> Object | None:
    for each in statuses or ():
        if each.get("name") == name:
            return each
    return statuses[0] if statuses else None


def _transition_time(status: Mapping[str, Any]) -> str:
    times = [str(each.get("lastTransitionTime", "")) for each in status.get("conditions") or ()]
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
