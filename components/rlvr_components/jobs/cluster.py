"""Training jobs on Kubernetes: one backend for PyTorchJobs and TrainJobs.

kube/kinds       what differs between the two
kube/access      kubeconfig or service account
kube/client      requests and streams, and what the server's refusals mean
kube/watching    job, pods and events, kept up to date
kube/causes      why a job waits or failed
kube/logs        the lines of all replicas
kube/progress    step and reward, from the run directory into annotations
kube/following   all of it, from now to the job's end
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from rlvr_components.jobs import JobSpec, JobStatus, JobSummary
from rlvr_components.platform import Platform

Place = Literal["pytorchjob", "trainjob"]
OnEvent = Callable[[Mapping[str, Any]], None]

CUSTOM_COLUMNS = (
    "kubectl get pytorchjobs -l app.kubernetes.io/part-of=rlvr -o custom-columns="
    r"'NAME:.metadata.name,STEP:.metadata.annotations.rlvr\.dev/step,"
    r"REWARD:.metadata.annotations.rlvr\.dev/reward,PHASE:.metadata.annotations.rlvr\.dev/phase'"
)
"""Shows how far jobs are, without rlvr."""


def open_backend(
    place: Place,
    platform: Platform,
    *,
    context: str | None = None,
    on_event: OnEvent | None = None,
) -> ClusterBackend:
    """The backend of a cluster: of the kubeconfig's `context`, or the one that this pod is in.

    `on_event` gets each event of the run directory's metrics.jsonl while a job is followed.
    Raises ConfigError, PlatformError.
    """
    raise NotImplementedError


def find_jobs(
    *,
    namespace: str = "",
    context: str | None = None,
    run: str | None = None,
    run_id: str | None = None,
    job: str | None = None,
) -> list[JobSummary]:
    """Jobs of rlvr of any kind, the newest first; with `job`, the one of that name.

    An empty namespace is the context's own. Raises ConfigError, PlatformError.
    """
    raise NotImplementedError


def delete_jobs(jobs: Sequence[JobSummary], *, context: str | None = None) -> list[JobSummary]:
    """Delete those jobs, with all that belongs to them; returns the ones that were there.

    Raises ConfigError, PlatformError.
    """
    raise NotImplementedError


class ClusterBackend:
    """Runs jobs as custom resources of one kind in one namespace."""

    stop_signals = (signal.SIGTERM, signal.SIGINT)

    @property
    def max_attempts(self) -> int:
        """Jobs that one launch may start."""
        raise NotImplementedError

    def next_attempt(self, spec: JobSpec) -> JobSpec:
        """The attempt that lives or has succeeded, or a new one. Raises JobFailed."""
        raise NotImplementedError

    def render(self, spec: JobSpec) -> dict[str, Any]:
        """The object that `submit` sends. Pure."""
        raise NotImplementedError

    def submit(self, rendered: dict[str, Any]) -> str:
        """Create the job, or adopt the one of its name; returns its name."""
        raise NotImplementedError

    def status(self, job: str) -> JobStatus:
        """Where the job stands now. Raises ConfigError when there is none."""
        raise NotImplementedError

    def logs(self, job: str, *, follow: bool = True) -> Iterator[str]:
        """Lines of all replicas, each with its replica's name: `[worker-1] …`."""
        raise NotImplementedError

    def stop(self, job: str) -> None:
        """Delete the job; its pods get SIGTERM and commit. Nothing happens when there is none."""
        raise NotImplementedError
