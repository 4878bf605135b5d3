"""The platform's settings: how and on which nodes the pods of a job run.

They do not change what a run learns, so they are not part of the recipe and its hash. An overlay of
`manifests/` ships them as the ConfigMap `rlvr-platform`; parameters take precedence over it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION",
    "AWS_REGION", "AWS_ENDPOINT_URL_S3", "HF_TOKEN",
)  # fmt: skip
"""Keys of a Secret that steps and TrainJobs get as environment; any may be missing."""

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class PlatformSection(BaseModel):
    """A part of the settings: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Volume(PlatformSection):
    """A claim that every pod mounts."""

    claim: str
    """The PersistentVolumeClaim's name."""
    path: str
    """Path of the mount."""
    read_only: bool = False
    """True if pods only read it."""


class Platform(PlatformSection):
    """Settings of every pod of a job. All keys but the image are optional."""

    namespace: str = ""
    """Empty: the launcher's own namespace, or that of the kubeconfig's context."""
    image: str
    """The trainer's image; by digest (`name@sha256:…`) for repeatable runs."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of the image."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets of a private registry, by name."""
    service_account: str = "rlvr-trainer"
    """Service account of the pods; it needs no rights in the API."""
    num_nodes: PositiveInt = 1
    """Number of pods that train together."""
    gpus_per_node: Count = 0
    """GPUs of a pod; 0: train on CPUs."""
    cpu_per_node: Annotated[float, Field(gt=0)] | None = None
    """CPUs that a pod requests."""
    memory_gib_per_node: Annotated[float, Field(gt=0)] | None = None
    """Memory that a pod requests, and its limit."""
    ephemeral_gib_per_node: Annotated[float, Field(gt=0)] | None = None
    """Disk space of the node that a pod requests."""
    shm_gib: Annotated[float, Field(gt=0)] = 8
    """Size of /dev/shm, a memory volume that counts against the memory limit."""
    efa_per_node: Count = 0
    """EFA devices of a pod."""
    node_selector: dict[str, str] = {}
    """Labels that a node must have."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints that pods tolerate, as Kubernetes writes them."""
    priority_class: str = ""
    """Name of a PriorityClass."""
    queue: str = ""
    """Kueue's local queue."""
    runtime: str = "rlvr"
    """The TrainingRuntime that a TrainJob refers to."""
    env: dict[str, str] = {}
    """Environment of every pod. No credentials: name a Secret in `secrets`."""
    secrets: tuple[str, ...] = ()
    """Secrets whose keys become environment variables, by name."""
    volumes: tuple[Volume, ...] = ()
    """Claims that every pod mounts."""
    labels: dict[str, str] = {}
    """Further labels of the job and its pods."""
    annotations: dict[str, str] = {}
    """Further annotations of the job and its pods."""
    queue_timeout_s: PositiveInt = 3600
    """Time for a job to wait until all of its pods run."""
    run_timeout_s: PositiveInt = 7 * 24 * 3600
    """Time for a job to run after that."""
    start_grace_s: PositiveInt = 60
    """Time for a cause that may pass, such as a registry that does not answer."""
    max_attempts: PositiveInt = 5
    """Attempts without a new commit before a failure is permanent."""
    stop_grace_s: PositiveInt = 120
    """Time between SIGTERM and SIGKILL, for pods to commit a checkpoint."""

    @property
    def world_size(self) -> int:
        """Return the number of processes that train: one a GPU, or one a pod without GPUs."""
        return self.num_nodes * max(self.gpus_per_node, 1)
