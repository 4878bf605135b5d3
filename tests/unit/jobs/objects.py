"""Jobs, pods and events as a cluster has them, for tests."""

from __future__ import annotations

import json
from typing import Any

from rlvr_components.jobs import JobSpec, Resources
from rlvr_components.platform.settings import Platform

Object = dict[str, Any]
CREATED = "2026-11-25T03:00:00Z"
PLATFORM = Platform(
    image="rlvr-trainer:0.1.0", namespace="rlvr", queue_timeout_s=60, start_grace_s=60
)
SPEC = JobSpec(
    "tiny",
    "0123456789ab",
    ("python", "-m", "rlvr_trainer", "launch", "--run", "/none"),
    "/none",
    resources=Resources(num_nodes=2),
)


def pytorchjob(
    name: str = "tiny", *conditions: Object, workers: int = 1, **metadata: Any
) -> Object:
    replicas = {"Master": {"replicas": 1}} | ({"Worker": {"replicas": workers}} if workers else {})
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": name,
            "namespace": "rlvr",
            "uid": f"uid-of-{name}",
            "creationTimestamp": CREATED,
            **metadata,
        },
        "spec": {"runPolicy": {}, "pytorchReplicaSpecs": replicas},
        "status": {"conditions": list(conditions)},
    }


def condition(type_: str, message: str = "", status: str = "True", **more: Any) -> Object:
    return {"type": type_, "status": status, "message": message, **more}


FAILED = condition("Failed", "PyTorchJob tiny is failed because 1 Worker replica(s) failed.")


def pod(
    replica: str = "worker-0",
    phase: str = "Running",
    state: Object | None = None,
    *,
    job: str = "tiny",
    init: Object | None = None,
    **status: Any,
) -> Object:
    """Return a pod of a PyTorchJob; `state` is its container's."""
    kind, _, index = replica.partition("-")
    if state is None and phase == "Running":
        state = {"running": {"startedAt": CREATED}}
    obj: Object = {
        "metadata": {
            "name": f"{job}-{replica}",
            "namespace": "rlvr",
            "uid": f"uid-of-{job}-{replica}",
            "creationTimestamp": CREATED,
            "labels": {
                "training.kubeflow.org/job-name": job,
                "training.kubeflow.org/replica-type": kind,
                "training.kubeflow.org/replica-index": index,
            },
        },
        "spec": {
            "nodeName": "node-a",
            "containers": [
                {"name": "pytorch", "resources": {"limits": {"memory": "40Gi"}}, "image": "i"}
            ],
        },
        "status": {"phase": phase, **status},
    }
    if state is not None:
        obj["status"]["containerStatuses"] = [
            {"name": "pytorch", "image": "trainer:1", "restartCount": 0, "state": state}
        ]
    if init is not None:
        obj["status"]["initContainerStatuses"] = [{"name": "init-pytorch", "state": init}]
    return obj


def terminated(
    exit_code: int, *, reason: str = "Error", message: str = "", at: str = "03:10:00"
) -> Object:
    return {
        "terminated": {
            "exitCode": exit_code,
            "reason": reason,
            "message": message,
            "finishedAt": f"2026-11-25T{at}Z",
        }
    }


def said(cause: str, exit_code: int, step: int = 10, node_rank: int = 1) -> str:
    """Return a termination message as `launch` writes it."""
    return json.dumps(
        {"cause": cause, "exit_code": exit_code, "step": step, "node_rank": node_rank}
    )


def waiting(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def event(
    reason: str, message: str, kind: str = "Pod", name: str = "tiny-worker-0", at: str = "03:01:00"
) -> Object:
    return {
        "metadata": {"name": f"{name}.{reason}.{at}", "uid": f"event-{name}-{reason}-{at}"},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": kind, "name": name},
        "lastTimestamp": f"2026-11-25T{at}Z",
    }
