"""The training as a PyTorchJob (kubeflow.org/v1), rendered as a plain dict. Pure.

What its defaults would do, and why they are set: the kubelet restarts one rank while its peers hang
(`restartPolicy`), a failed job's other pods keep their GPUs (`cleanPodPolicy`), and more processes
are counted than run (`nprocPerNode`).
"""

from __future__ import annotations

import re
from typing import Any

from rlvr_components.jobs import JobSpec
from rlvr_components.jobs.pods import job_annotations, job_labels, metadata, pod_spec
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError

CONTAINER = "pytorch"
"""The operator looks for a container of this name."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's webhook suspends a job with this label, so the job does not set `suspend`."""
KEEP_ENDED_S = 7 * 24 * 3600
"""A terminated job is kept this long for retries to adopt and people to inspect."""
MAX_SERVICE_NAME = 63
NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")


def render_pytorchjob(spec: JobSpec, platform: Platform) -> dict[str, Any]:
    """Render the PyTorchJob. Raises ConfigError for what the API server would refuse."""
    num_workers = spec.resources.num_nodes - 1
    check_name(spec.name, f"-worker-{max(num_workers - 1, 0)}")
    meta = metadata(spec, platform)
    if platform.queue:
        meta["labels"] |= {QUEUE_LABEL: platform.queue}
    replicas = {"Master": _replica(1, spec, platform)}
    if num_workers:  # the operator refuses a Worker of no replicas
        replicas["Worker"] = _replica(num_workers, spec, platform)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": meta,
        "spec": {
            "nprocPerNode": str(max(spec.resources.gpus_per_node, 1)),
            "runPolicy": {
                "cleanPodPolicy": "Running",
                "ttlSecondsAfterFinished": KEEP_ENDED_S,
                # The operator counts from creation. This is for a launcher that is gone; the
                # launcher itself tells the time in the queue from the time of running.
                "activeDeadlineSeconds": platform.queue_timeout_s + platform.run_timeout_s,
            },
            "pytorchReplicaSpecs": replicas,
        },
    }


def check_name(name: str, suffix: str) -> None:
    """Raise ConfigError when a replica's Service, `name` and `suffix`, could not be created."""
    if not NAME.match(name) or len(name + suffix) > MAX_SERVICE_NAME:
        raise ConfigError(
            f"the job's name {name!r} does not do for Kubernetes (a-z, 0-9 and -, at most "
            f"{MAX_SERVICE_NAME - len(suffix)} characters); choose another `name` in the recipe"
        )


def _replica(replicas: int, spec: JobSpec, platform: Platform) -> dict[str, Any]:
    return {
        "replicas": replicas,
        # 1 to 127 is permanent, from 128 up the pod is made anew; launch maps causes to codes
        "restartPolicy": "ExitCode",
        "template": {
            "metadata": {
                "labels": job_labels(spec, platform),
                "annotations": job_annotations(spec, platform),
            },
            "spec": pod_spec(CONTAINER, spec, platform),
        },
    }
