"""Training jobs: what is to run, and one protocol for the places where it can.

A backend's `render` is pure, and what it gives is what `submit` sends: a preview is the real thing.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Literal, Protocol

from rlvr_trainer.events import EVENTS_VARIABLE
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.trajectory import training_hash

ALLOWED_ENVIRONMENT = (
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "PYTHONHASHSEED",
    "TOKENIZERS_PARALLELISM",
)
ALLOWED_ENVIRONMENT_PREFIXES = ("CUDA_", "FI_", "NCCL_", "PYTORCH_", "TORCH_")
"""What a job takes over from the environment that it is launched from; never a credential."""
MACHINE_BOUND = re.compile(
    r"(_(DIR|FILE|HOME|HOSTID|HCA|IFACE|IFNAME|PATH|ROOT|VERSION)|_VISIBLE_DEVICES)$|^CUDA_MPS_"
)
"""But for what is true of one machine only: its devices, paths and network interfaces."""

Step = Literal["train", "evaluate-base", "evaluate-trained"]
"""A step of the pipeline that loads a model, and so runs as a job."""

STEP_IN_NAME: dict[Step, str] = {
    "train": "train",
    "evaluate-base": "base",
    "evaluate-trained": "trained",
}


@dataclass(frozen=True)
class Resources:
    """What a job asks for."""

    num_nodes: int = 1
    gpus_per_node: int = 0


@dataclass(frozen=True)
class Owner:
    """The object that takes the job with it when it is deleted: in Kubeflow, Workflow or pod."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True)
class JobSpec:
    """A job, wherever it runs."""

    run_name: str
    recipe_hash: str
    """Of the fields that decide what the job gives: with others it is another job."""
    command: tuple[str, ...]
    run_dir: str
    """The run directory: recipe, data, checkpoints, metrics."""
    step: Step = "train"
    run_id: str = ""
    """Of the pipeline run; another one makes another job of the same recipe."""
    is_automatic: bool = False
    """Launched again by a machine (Kubeflow's retries), so that a permanent failure stays one; a
    person who starts it again wants another attempt."""
    attempt: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    owner: Owner | None = None

    @property
    def name(self) -> str:
        """The same for the same run, step, recipe and attempt, so that a retry finds the job.

        At most 49 characters: a replica's Service adds `-worker-NN` and must stay within 63.
        """
        return f"{self.name_of_all_attempts}-{self.attempt}"

    def with_attempt(self, attempt: int) -> JobSpec:
        """The same job, tried for that many times."""
        return replace(self, attempt=attempt)

    @property
    def name_of_all_attempts(self) -> str:
        """The name without the attempt's number."""
        return f"rlvr-{self.run_name}-{STEP_IN_NAME[self.step]}-{self.key}"

    @property
    def key(self) -> str:
        """Eight hex digits of what makes two jobs the same: run directory, run id, step, recipe."""
        parts = (self.run_dir, self.run_id, self.step, self.recipe_hash)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Replica:
    """One pod of a job."""

    name: str
    """`master-0`, `worker-1`."""
    phase: str
    """Kubernetes' own word: Pending, Running, Succeeded, Failed."""
    node: str = ""
    reason: str = ""
    """What it waits for, or why it ended."""
    num_restarts: int = 0


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands."""

    phase: Literal["pending", "running", "succeeded", "failed"]
    exit_code: int | None = None
    """DESIGN's exit code, once it has ended."""
    cause: str = ""
    """Why it failed, or what it waits for: the first real cause, for people."""
    replicas: tuple[Replica, ...] = ()
    is_retried: bool = False
    """Whether a failed job is worth another attempt at once."""


@dataclass(frozen=True)
class JobSummary:
    """A job among others: what a list of them shows."""

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
    """How far it is: `12/100`."""
    reward: str = ""
    progress_phase: str = ""
    """Which part of a run it is in, by the phases of the events."""
    run_id: str = ""
    run_dir: str = ""
    created: str = ""
    """As Kubernetes writes it: `2026-11-25T03:00:00Z`."""
    age_s: float = 0.0
    replicas: tuple[Replica, ...] = ()
    is_stopping: bool = False
    """It is being deleted."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.phase in ("succeeded", "failed")


class Backend(Protocol):
    """A place where a job can run."""

    @property
    def max_attempts(self) -> int:
        """How many jobs one launch may start, the first included."""

    @property
    def stop_signals(self) -> tuple[signal.Signals, ...]:
        """Those that stop the job of whoever launched it."""

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """The attempt to submit: one that lives or has succeeded, or the one after a failed one.

        Raises JobFailed for a failure that stays one.
        """

    def render(self, spec: JobSpec) -> Any:
        """What `submit` would send. Pure."""

    def submit(self, rendered: Any) -> str:
        """Start it, or adopt the one of its name; returns the job's id.

        Raises PlatformError, ConfigError.
        """

    def status(self, job: str) -> JobStatus:
        """Where the job stands now."""

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """The job's lines, without their ends, until it has ended, or those there are by now."""

    def stop(self, job: str) -> None:
        """Ask the job to stop; training commits a checkpoint first. Returns at once.

        An empty `job` is the one that is just being submitted. May be called by a signal handler.
        """


def training_job(
    recipe: Recipe, run_dir: PurePath, environment: Mapping[str, str], *, num_gpus: int = 0
) -> JobSpec:
    """The job that trains the recipe in `run_dir` on one machine, launched from `environment`.

    With several GPUs it is what a pod runs, which starts a process for each of them.
    """
    verb = "launch" if num_gpus > 1 else "train"
    return JobSpec(
        run_name=recipe.name,
        recipe_hash=training_hash(recipe),
        command=("python", "-m", "rlvr_trainer", verb, "--run", str(run_dir)),
        run_dir=str(run_dir),
        resources=Resources(gpus_per_node=num_gpus),
        env={**allowed_environment(environment), EVENTS_VARIABLE: str(run_dir / "metrics.jsonl")},
    )


def allowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a job takes over of the environment that it is launched from."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name in ALLOWED_ENVIRONMENT
        or (name.startswith(ALLOWED_ENVIRONMENT_PREFIXES) and not MACHINE_BOUND.search(name))
    }
