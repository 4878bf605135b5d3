"""List, read, stop and delete the jobs of a run in the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rlvr_components.jobs import JobSummary
from rlvr_components.jobs.cluster import ClusterBackend, delete_jobs, find_jobs
from rlvr_components.jobs.kinds import KINDS
from rlvr_components.jobs.pods import JOB_LABEL
from rlvr_components.kubernetes.access import find_access
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.platform.settings import Platform
from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cluster.merge_lines import merge_lines
from rlvr_pipelines.run_name import RunName
from rlvr_trainer.errors import ConfigError, PlatformError

KIND_OF_NAME = {kind.name: kind for kind in KINDS.values()}
POLL_S = 1.0
STOP_MARGIN_S = 60
"""Seconds that the kubelet and API server need after the grace period of the pods."""
DEFAULT_GRACE_S = 120
ENDED_PHASES = ("Succeeded", "Failed")


def jobs_of(named: RunName, access: AccessOptions, *, namespace: str = "") -> list[JobSummary]:
    """Return the run's jobs, or the job of this name, newest first. Raises ConfigError for none."""
    namespace = namespace or access.namespace
    if named.where == "kubeflow":
        return find_jobs(namespace=namespace, context=access.context, run_id=named.text)
    jobs = find_jobs(namespace=namespace, context=access.context, run=named.text)
    if jobs:
        return jobs
    jobs = find_jobs(namespace=namespace, context=access.context, job=named.text)
    if jobs:
        return jobs
    where = namespace or find_access(access.context).namespace
    raise ConfigError(
        f"no run or job {named.text!r} is in namespace {where}; `rlvr status` lists them; name a "
        f"run on this machine by its directory (runs/{named.text}), and one on SageMaker with --on "
        "sagemaker"
    )


def all_jobs(access: AccessOptions) -> list[JobSummary]:
    """Return all jobs of rlvr in the namespace, newest first."""
    return find_jobs(namespace=access.namespace, context=access.context)


def newest_attempts(jobs: Iterable[JobSummary], step: str = "") -> list[JobSummary]:
    """Return the last attempt of every step's job, oldest first; with `step`, of that step."""
    newest: dict[tuple[str, str], JobSummary] = {}
    for job in jobs:
        newest.setdefault((job.run_id or job.run_dir, job.step), job)
    chosen = [job for job in newest.values() if step in ("", job.step)]
    return sorted(chosen, key=lambda job: job.created)


def job_log_lines(
    jobs: Sequence[JobSummary], access: AccessOptions, *, follow: bool = False
) -> Iterator[str]:
    """Yield the lines of the jobs' logs; with several jobs, each line begins with its step."""
    if len(jobs) == 1:
        return _backend(jobs[0], access).logs(jobs[0].name, follow=follow)
    return merge_lines(
        {job.step: _backend(job, access).logs(job.name, follow=follow) for job in jobs}
    )


def stop_jobs(jobs: Iterable[JobSummary], access: AccessOptions) -> list[JobSummary]:
    """Delete the live jobs and wait until none of their pods runs; return these jobs.

    Raises PlatformError if pods outlive their grace period.
    """
    stopped = [job for job in jobs if not job.has_ended]
    for job in stopped:
        _backend(job, access).stop(job.name)
    if stopped:
        _await_end(stopped, access)
    return stopped


def clean_jobs(
    jobs: Iterable[JobSummary], access: AccessOptions, *, older_than_s: float, dry_run: bool
) -> list[JobSummary]:
    """Delete the jobs that have ended and are old enough, with their pods; return them."""
    ended = [
        job for job in jobs if job.has_ended and not job.is_stopping and job.age_s >= older_than_s
    ]
    return ended if dry_run or not ended else delete_jobs(ended, context=access.context)


def _backend(job: JobSummary, access: AccessOptions) -> ClusterBackend:
    # the image is read only when a job is created
    platform = Platform(image="none", namespace=job.namespace)
    return ClusterBackend(KIND_OF_NAME[job.kind], platform, find_access(access.context))


def _await_end(jobs: Sequence[JobSummary], access: AccessOptions) -> None:
    names = ",".join(sorted({job.name.rpartition("-")[0] for job in jobs}))
    query = {"labelSelector": f"{JOB_LABEL} in ({names})"}
    api, namespace = KubernetesApi(find_access(access.context)), jobs[0].namespace
    started = time.monotonic()
    while True:
        living = [
            pod
            for pod in api.list(f"/api/v1/namespaces/{namespace}/pods", query)["items"]
            if _lives(pod)
        ]
        if not living:
            return
        grace_s = max(pod["metadata"].get("deletionGracePeriodSeconds") or DEFAULT_GRACE_S
                      for pod in living)  # fmt: skip
        if time.monotonic() - started > grace_s + STOP_MARGIN_S:
            left = ", ".join(pod["metadata"]["name"] for pod in living)
            raise PlatformError(
                f"{left} still runs {grace_s + STOP_MARGIN_S} s after it was stopped; check its "
                f"node: kubectl delete pod -n {namespace} --force removes it from the API only"
            )
        time.sleep(POLL_S)


def _lives(pod: dict[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") not in ENDED_PHASES
