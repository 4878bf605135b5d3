"""Render the pod of a job, the same for every kind of job. Pure.

Every pod passes Pod Security *restricted*. Its root file system is read-only; it writes to /tmp,
/dev/shm and its copy of the run directory, which are deleted with the pod.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlvr_components.jobs.job import JobSpec, Owner, Resources, Step, allowed_environment
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.launch.pod import DEFAULT_WORK_DIR
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import training_hash

PART_OF_LABEL, PART_OF = "app.kubernetes.io/part-of", "rlvr"
RUN_LABEL = "rlvr.dev/run"
STEP_LABEL = "rlvr.dev/step"
JOB_LABEL = "rlvr.dev/job"
ATTEMPT_LABEL = "rlvr.dev/attempt"
PIPELINE_RUN_LABEL = "pipeline/runid"
"""KFP's label of every object of a pipeline run."""
RUN_DIR_ANNOTATION = "rlvr.dev/run-dir"
RECIPE_ANNOTATION = "rlvr.dev/recipe-hash"

SPEC_HASH_ANNOTATION = "rlvr.dev/spec-hash"
CAUSE_ANNOTATION = "rlvr.dev/cause"
EXIT_CODE_ANNOTATION = "rlvr.dev/exit-code"
RUNNING_SINCE_ANNOTATION = "rlvr.dev/running-since"
"""Time when all replicas ran for the first time, in seconds since 1970."""
OUT_OF_MEMORY_ANNOTATION = "rlvr.dev/out-of-memory"
"""Pods that ran out of memory: `worker-1/UID`, separated by spaces."""
PROGRESS_STEP_ANNOTATION = "rlvr.dev/step"
REWARD_ANNOTATION = "rlvr.dev/reward"
PHASE_ANNOTATION = "rlvr.dev/phase"

NONROOT_ID = 65532
"""The user of our images."""
GPU, EFA = "nvidia.com/gpu", "vpc.amazonaws.com/efa"

CREDENTIAL = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY)", re.I)
NOT_A_CREDENTIAL = re.compile(r"(_FILE|_PATH|^TOKENIZERS_.*)$", re.I)


def cluster_job(
    recipe: Recipe,
    platform: Platform,
    environment: Mapping[str, str],
    *,
    run_name: str,
    run_dir: str,
    run_id: str,
    step: Step = "train",
    command: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    is_automatic: bool = False,
    owner: Owner | None = None,
) -> JobSpec:
    """Return the job of a step in a cluster, launched from `environment`.

    It runs `command`, or trains without one.
    """
    return JobSpec(
        run_name=run_name,
        recipe_hash=training_hash(recipe) if step == "train" else recipe.hash,
        command=launch_command(run_dir, platform, command),
        run_dir=run_dir,
        step=step,
        run_id=run_id,
        is_automatic=is_automatic,
        env={**allowed_environment(environment), **(env or {})},
        resources=Resources(platform.num_nodes, platform.gpus_per_node),
        owner=owner,
    )


def launch_command(
    run_dir: str, platform: Platform, command: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the command of a pod for `run_dir`: `command`, or the training without one."""
    return (
        *("python", "-m", "rlvr_trainer", "launch", "--run", run_dir),
        *("--max-attempts", str(platform.max_attempts)),
        *("--master-timeout-s", str(platform.queue_timeout_s)),
        *(("--", *command) if command else ()),
    )


def metadata(spec: JobSpec, platform: Platform) -> dict[str, Any]:
    """Render the job's metadata."""
    owner = spec.owner
    rendered: dict[str, Any] = {
        "name": spec.name,
        "labels": job_labels(spec, platform),
        "annotations": job_annotations(spec, platform),
    }
    if platform.namespace:
        rendered["namespace"] = platform.namespace
    if owner:
        rendered["ownerReferences"] = [
            {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "controller": False,
                # setting it needs rights on the owner's finalizers
                "blockOwnerDeletion": False,
            }
        ]
    return rendered


def job_labels(spec: JobSpec, platform: Platform) -> dict[str, str]:
    """Return the labels of the job and of its pods."""
    return {
        **platform.labels,
        "app.kubernetes.io/name": "rlvr-trainer",
        PART_OF_LABEL: PART_OF,
        RUN_LABEL: spec.run_name,
        STEP_LABEL: spec.step,
        JOB_LABEL: spec.name_of_all_attempts,
        ATTEMPT_LABEL: str(spec.attempt),
        **({PIPELINE_RUN_LABEL: spec.run_id} if spec.run_id else {}),
    }


def job_annotations(spec: JobSpec, platform: Platform) -> dict[str, str]:
    """Return the annotations of the job and of its pods."""
    return {
        **platform.annotations,
        RUN_DIR_ANNOTATION: spec.run_dir,
        RECIPE_ANNOTATION: spec.recipe_hash,
    }


def environment(spec: JobSpec, platform: Platform) -> list[dict[str, str]]:
    """Render the platform's and the job's variables. Raises ConfigError for a credential."""
    merged = {**platform.env, **spec.env}
    for name in merged:
        if CREDENTIAL.search(name) and not NOT_A_CREDENTIAL.search(name):
            raise ConfigError(
                f"env.{name} looks like a credential, and everyone who may read the job could read "
                "it; put it into a Secret and name the Secret in `secrets`"
            )
    return [{"name": name, "value": merged[name]} for name in sorted(merged)]


def container(name: str, spec: JobSpec, platform: Platform) -> dict[str, Any]:
    """Render the container that trains."""
    return {
        "name": name,
        "image": platform.image,
        "imagePullPolicy": platform.image_pull_policy,
        "command": list(spec.command),
        "env": environment(spec, platform),
        **_present("envFrom", [{"secretRef": {"name": secret}} for secret in platform.secrets]),
        "resources": resources(spec, platform),
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": volume_mounts(platform),
    }


def pod_spec(container_name: str, spec: JobSpec, platform: Platform) -> dict[str, Any]:
    """Render the pod's spec, without a restart policy, which the kind of job sets."""
    return {
        "serviceAccountName": platform.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": platform.stop_grace_s,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NONROOT_ID,
            "runAsGroup": NONROOT_ID,
            "fsGroup": NONROOT_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **placement(platform),
        "containers": [container(container_name, spec, platform)],
        "volumes": volumes(platform),
    }


def placement(platform: Platform) -> dict[str, Any]:
    """Render node selector, tolerations, priority and registry secrets of pods."""
    return {
        **_present("nodeSelector", dict(platform.node_selector)),
        **_present("tolerations", [dict(toleration) for toleration in platform.tolerations]),
        **_present("priorityClassName", platform.priority_class),
        **_present(
            "imagePullSecrets", [{"name": secret} for secret in platform.image_pull_secrets]
        ),
    }


def resources(spec: JobSpec, platform: Platform) -> dict[str, Any]:
    """Render requests and limits of one pod; a limit of CPUs would only throttle it."""
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if platform.cpu_per_node:
        requests["cpu"] = f"{platform.cpu_per_node:g}"
    if platform.memory_gib_per_node:
        requests["memory"] = limits["memory"] = gib(platform.memory_gib_per_node)
    if platform.ephemeral_gib_per_node:
        requests["ephemeral-storage"] = gib(platform.ephemeral_gib_per_node)
    for name, count in ((GPU, spec.resources.gpus_per_node), (EFA, platform.efa_per_node)):
        if count:
            requests[name] = limits[name] = str(count)
    return {**_present("requests", requests), **_present("limits", limits)}


def volumes(platform: Platform) -> list[dict[str, Any]]:
    """Render scratch space, shared memory and the platform's claims."""
    return [
        {"name": "tmp", "emptyDir": {}},
        {"name": "work", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": gib(platform.shm_gib)}},
        *(
            {
                "name": f"claim-{index}",
                "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only},
            }
            for index, volume in enumerate(platform.volumes)
        ),
    ]


def volume_mounts(platform: Platform) -> list[dict[str, Any]]:
    """Render the mounts of the volumes."""
    return [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "work", "mountPath": str(DEFAULT_WORK_DIR.parent)},
        {"name": "shm", "mountPath": "/dev/shm"},
        *(
            {"name": f"claim-{index}", "mountPath": volume.path, "readOnly": volume.read_only}
            for index, volume in enumerate(platform.volumes)
        ),
    ]


def gib(amount: float) -> str:
    """Return the amount as a quantity of Kubernetes, in whole MiB."""
    return f"{amount:.0f}Gi" if float(amount).is_integer() else f"{amount * 1024:.0f}Mi"


def _present(name: str, value: Mapping[str, Any] | list[Any] | str) -> dict[str, Any]:
    """Return the field unless it is empty, since the server stores no empty fields."""
    return {name: value} if value else {}
