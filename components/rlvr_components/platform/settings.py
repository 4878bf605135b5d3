"""The platform: where and how the pods of a job run.

These settings decide nothing that a run learns, so they are outside the recipe and its hash. An
overlay of `manifests/` ships them as the ConfigMap `rlvr-platform`; parameters go before it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION",
    "AWS_REGION", "AWS_ENDPOINT_URL_S3", "HF_TOKEN",
)  # fmt: skip
"""Keys of a Secret that steps and TrainJobs get as environment; each may be missing."""

PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class PlatformSection(BaseModel):
    """A part of the settings: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Volume(PlatformSection):
    """A claim that every pod mounts."""

    claim: str
    """The PersistentVolumeClaim's name."""
    path: str
    """Where it is mounted."""
    read_only: bool = False
    """Whether pods only read it."""


class Platform(PlatformSection):
    """What every pod of a job gets. All keys are optional but the image."""

    namespace: str = ""
    """Empty: the launcher's own, or that of the kubeconfig's context."""
    image: str
    """The trainer's image; by digest (`name@sha256:…`) where tomorrow's run is to be the same."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes pull it."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets of a private registry, by name."""
    service_account: str = "rlvr-trainer"
    """What pods run as; it needs no rights in the API."""
    num_nodes: PositiveInt = 1
    """Pods that train together."""
    gpus_per_node: Count = 0
    """GPUs of each pod; 0: a CPU."""
    cpu_per_node: Annotated[float, Field(gt=0)] | None = None
    """CPUs that a pod requests."""
    memory_gib_per_node: Annotated[float, Field(gt=0)] | None = None
    """Memory that a pod requests, and its limit."""
    ephemeral_gib_per_node: Annotated[float, Field(gt=0)] | None = None
    """Disk of the node that a pod requests."""
    shm_gib: Annotated[float, Field(gt=0)] = 8
    """/dev/shm, a memory volume; it counts against the memory limit."""
    efa_per_node: Count = 0
    """EFA devices of each pod."""
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
    """How long a job may wait until all its pods run."""
    run_timeout_s: PositiveInt = 7 * 24 * 3600
    """How long it may run after that."""
    start_grace_s: PositiveInt = 60
    """How long a cause that could pass (a registry that does not answer, say) may last."""
    max_attempts: PositiveInt = 5
    """Attempts without a new commit before a failure is permanent."""
    stop_grace_s: PositiveInt = 120
    """What pods get to commit a checkpoint between SIGTERM and SIGKILL."""

    @property
    def world_size(self) -> int:
        """Processes that train together: one for each GPU, or one for each pod without any."""
        return self.num_nodes * max(self.gpus_per_node, 1)
