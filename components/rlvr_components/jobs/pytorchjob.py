"""Render a job as a PyTorchJob (kubeflow.org/v1), a plain dict. Pure.

By the operator's defaults the kubelet would restart one rank while its peers hang
(`restartPolicy`), a failed job's other pods would keep their GPUs (`cleanPodPolicy`), and more
processes would be counted than run (`nprocPerNode`).
"""

from __future__ import annotations

import re
from typing import Any

from rlvr_components.jobs.job import JobSpec
from rlvr_components.jobs.pods import job_annotations, job_labels, metadata, pod_spec
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError

CONTAINER = "pytorch"
"""Name of the container that the operator looks for."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's webhook suspends a job with this label, so the job does not set `suspend`."""
KEEP_TERMINATED_S = 7 * 24 * 3600
"""Time that a terminated job is kept for retries to adopt and users to inspect."""
MAX_SERVICE_NAME = 63
NAME = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")


def render_pytorchjob(spec: JobSpec, platform: Platform) -> dict[str, Any]:
    """Render the PyTorchJob. Raises ConfigError if the API server would refuse it."""
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
                "ttlSecondsAfterFinished": KEEP_TERMINATED_S,
                # The operator counts from creation. This is for a launcher that is gone; a
                # launcher has separate limits for the queue and for running.
                "activeDeadlineSeconds": platform.queue_timeout_s + platform.run_timeout_s,
            },
            "pytorchReplicaSpecs": replicas,
        },
    }


def check_name(name: str, suffix: str) -> None:
    """Raise ConfigError if a replica's Service, `name` and `suffix`, could not be created."""
    if not NAME.match(name) or len(name + suffix) > MAX_SERVICE_NAME:
        raise ConfigError(
            f"the job's name {name!r} is not valid in Kubernetes (a-z, 0-9 and -, at most "
            f"{MAX_SERVICE_NAME - len(suffix)} characters); choose another `name` in the recipe"
        )


def _replica(replicas: int, spec: JobSpec, platform: Platform) -> dict[str, Any]:
    return {
        "replicas": replicas,
        # codes from 128 replace the pod, others are permanent; launch maps causes to codes
        "restartPolicy": "ExitCode",
        "template": {
            "metadata": {
                "labels": job_labels(spec, platform),
                "annotations": job_annotations(spec, platform),
            },
            "spec": pod_spec(CONTAINER, spec, platform),
        },
    }
