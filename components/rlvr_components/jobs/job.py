"""The description of a job, its status, and the protocol of the backends that run it."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal, Protocol

from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import training_hash
from rlvr_trainer.run_dir.layout import METRICS
from rlvr_trainer.variables import EVENTS_VARIABLE

ALLOWED_ENVIRONMENT = (
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "TOKENIZERS_PARALLELISM",
)
ALLOWED_ENVIRONMENT_PREFIXES = ("CUDA_", "FI_", "NCCL_", "PYTORCH_", "TORCH_")
"""Variables that a job inherits from its launcher's environment; never a credential."""
MACHINE_BOUND = re.compile(
    r"(_(DIR|FILE|HOME|HOSTID|HCA|IFACE|IFNAME|PATH|ROOT|VERSION)|_VISIBLE_DEVICES)$|^CUDA_MPS_"
)
"""Except variables of one machine: its devices, paths and network interfaces."""

Step = Literal["train", "evaluate-base", "evaluate-trained"]
"""A step of the pipeline that loads a model, and therefore runs as a job."""

STEP_IN_NAME: dict[Step, str] = {
    "train": "train",
    "evaluate-base": "base",
    "evaluate-trained": "trained",
}


@dataclass(frozen=True)
class Resources:
    """Nodes and GPUs of a job."""

    num_nodes: int = 1
    gpus_per_node: int = 0


@dataclass(frozen=True)
class Owner:
    """The object that the job is deleted with: in Kubeflow, the Workflow or the pod."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True)
class JobSpec:
    """A job, independent of its backend."""

    run_name: str
    recipe_hash: str
    """Hash of the fields that decide the job's result; other fields make another job."""
    command: tuple[str, ...]
    run_dir: str
    """The run directory: recipe, data, checkpoints, metrics."""
    step: Step = "train"
    run_id: str = ""
    """Id of the pipeline run; another id makes another job of the same recipe."""
    is_automatic: bool = False
    """Kubeflow retries the launch, so a permanent failure stays permanent; a user who starts the
    job again gets another attempt."""
    attempt: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    owner: Owner | None = None
    model_uri: str = ""
    """The model's folder if it is in S3: a backend may mount it."""

    @property
    def name(self) -> str:
        """Return the same name for the same run, step, recipe and attempt, for retries to find it.

        At most 49 characters: a replica's Service adds `-worker-NN` and must stay within 63.
        """
        return f"{self.name_of_all_attempts}-{self.attempt}"

    def with_attempt(self, attempt: int) -> JobSpec:
        """Return the same job with that attempt's number."""
        return replace(self, attempt=attempt)

    @property
    def name_of_all_attempts(self) -> str:
        """Return the name without the attempt's number."""
        return f"rlvr-{self.run_name}-{STEP_IN_NAME[self.step]}-{self.key}"

    @property
    def key(self) -> str:
        """Return eight hex digits of what identifies a job: run directory, run id, step, recipe."""
        parts = (self.run_dir, self.run_id, self.step, self.recipe_hash)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Replica:
    """One pod of a job."""

    name: str
    """`master-0`, `worker-1`."""
    phase: str
    """Kubernetes' phase: Pending, Running, Succeeded, Failed."""
    node: str = ""
    reason: str = ""
    """The pending reason, or the cause of the termination."""
    num_restarts: int = 0


@dataclass(frozen=True)
class JobStatus:
    """Phase, exit code, cause and replicas of a job."""

    phase: Literal["pending", "running", "succeeded", "failed"]
    exit_code: int | None = None
    """Exit code of the training process after its termination."""
    cause: str = ""
    """The first real cause of a failure, or the pending reason, for people."""
    replicas: tuple[Replica, ...] = ()
    is_retried: bool = False
    """True if a failed job is retried at once."""


@dataclass(frozen=True)
class JobSummary:
    """A job's line in a list of jobs."""

    name: str
    kind: str
    """`PyTorchJob`, `TrainJob`."""
    namespace: str
    run: str
    step: str
    """`train`, `evaluate-base`, `evaluate-trained`."""
    attempt: int
    phase: Literal["pending", "running", "succeeded", "failed"]
    cause: str = ""
    exit_code: int | None = None
    progress_step: str = ""
    """Progress: `12/100`."""
    reward: str = ""
    progress_phase: str = ""
    """Current phase, as the events name it."""
    run_id: str = ""
    run_dir: str = ""
    created: str = ""
    """As Kubernetes writes it: `2026-11-25T03:00:00Z`."""
    age_s: float = 0.0
    replicas: tuple[Replica, ...] = ()
    is_stopping: bool = False
    """True while the job is being deleted."""

    @property
    def has_ended(self) -> bool:
        """True if the job has terminated."""
        return self.phase in ("succeeded", "failed")


class Backend(Protocol):
    """A place where jobs run."""

    @property
    def max_attempts(self) -> int:
        """Return how many jobs one launch may start, the first included."""

    @property
    def stop_signals(self) -> tuple[signal.Signals, ...]:
        """Return the signals that stop the launcher's job."""

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """Return the live or succeeded attempt, or the one after the last failure.

        Raises JobFailed for a permanent failure.
        """

    def render(self, spec: JobSpec) -> Any:
        """Render what `submit` sends. Pure."""

    def submit(self, rendered: Any) -> str:
        """Start the job, or adopt the one of its name; return its id.

        Raises PlatformError, ConfigError.
        """

    def status(self, job: str) -> JobStatus:
        """Return the job's status."""

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """Yield the job's lines until it terminates; without `follow`, those present."""

    def stop(self, job: str) -> None:
        """Ask the job to stop; training commits a checkpoint first. Returns at once.

        An empty `job` is the one being submitted. May be called by a signal handler.
        """

    def stop_earlier(self, spec: JobSpec) -> None:
        """Stop the job that an earlier launch of the spec left running, if there is one."""


def training_job(
    recipe: Recipe, run_dir: PurePath, environment: Mapping[str, str], *, num_gpus: int = 0
) -> JobSpec:
    """Return the job that trains in `run_dir` on one machine, launched from `environment`.

    With several GPUs its command is that of a pod, which starts a process for each.
    """
    verb = "launch" if num_gpus > 1 else "train"
    return JobSpec(
        run_name=recipe.name,
        recipe_hash=training_hash(recipe),
        command=("python", "-m", "rlvr_trainer", verb, "--run", str(run_dir)),
        run_dir=str(run_dir),
        resources=Resources(gpus_per_node=num_gpus),
        env={**allowed_environment(environment), EVENTS_VARIABLE: str(run_dir / METRICS)},
    )


def allowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a job inherits from its launcher's environment."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name in ALLOWED_ENVIRONMENT
        or (name.startswith(ALLOWED_ENVIRONMENT_PREFIXES) and not MACHINE_BOUND.search(name))
    }
