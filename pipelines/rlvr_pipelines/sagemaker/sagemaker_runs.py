"""List, read, stop and delete the jobs of a run on SageMaker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlvr_components.jobs import JobSummary
from rlvr_components.jobs.cluster.job_progress import annotations_of
from rlvr_components.jobs.pods import PHASE_ANNOTATION, PROGRESS_STEP_ANNOTATION, REWARD_ANNOTATION
from rlvr_components.sagemaker import run_jobs
from rlvr_components.sagemaker.aws_api import AwsApi
from rlvr_components.sagemaker.cloudwatch_lines import CloudWatchLines
from rlvr_components.sagemaker.job_following import JobFollower
from rlvr_components.sagemaker.run_jobs import Leftover
from rlvr_components.sagemaker.sagemaker_jobs import PREFIX
from rlvr_pipelines.cluster.merge_lines import merge_lines
from rlvr_trainer.errors import ConfigError, RLVRError
from rlvr_trainer.run_dir.events import parse_events
from rlvr_trainer.run_dir.metrics_log import read_metrics
from rlvr_trainer.storage import open_storage

CREDENTIAL_VARIABLES = (
    "AWS_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)


def uses_aws(environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if boto3 is installed and finds credentials without asking the network."""
    if find_spec("boto3") is None:
        return False
    file = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    return file.is_file() or any(environment.get(name) for name in CREDENTIAL_VARIABLES)


def jobs_of(name: str, region: str = "") -> list[JobSummary]:
    """Return the jobs of the run or id, or the job of this name, newest first.

    Raises ConfigError for none, PlatformError.
    """
    jobs = run_jobs.find_jobs(region, job=name) if name.startswith(PREFIX) else []
    jobs = jobs or run_jobs.find_jobs(region, run=name)
    jobs = jobs or run_jobs.find_jobs(region, run_id=name)
    if jobs:
        return [_with_progress(job) for job in jobs]
    where = region or AwsApi(region).region
    raise ConfigError(
        f"no run or job {name!r} is on SageMaker in {where}; `rlvr status --on sagemaker` lists "
        "them, and --region names another region"
    )


def all_jobs(region: str = "") -> list[JobSummary]:
    """Return all jobs of rlvr in the region, newest first. Raises ConfigError, PlatformError."""
    return [_with_progress(job) for job in run_jobs.find_jobs(region)]


def job_log_lines(
    jobs: Sequence[JobSummary], region: str = "", *, follow: bool = False
) -> Iterator[str]:
    """Yield the lines of the jobs' logs; with several jobs, each line begins with its step.

    Raises ConfigError, PlatformError.
    """
    if len(jobs) == 1:
        return _lines(jobs[0], region, follow)
    return merge_lines({job.step: _lines(job, region, follow) for job in jobs})


def _lines(job: JobSummary, region: str, follow: bool) -> Iterator[str]:
    api = AwsApi(region)
    if not follow:
        return CloudWatchLines(api, job.name).new_lines()
    return JobFollower(
        api, job.name, is_launcher=False, on_event=None, is_stopped=lambda: False
    ).lines()


def stop_jobs(jobs: Sequence[JobSummary], region: str = "") -> list[JobSummary]:
    """Stop the live jobs and wait until they have ended; return them.

    Raises ConfigError, PlatformError.
    """
    stopped = run_jobs.stop_jobs(jobs, region)
    run_jobs.await_end([job for job in jobs if not job.has_ended], region)
    return stopped


@dataclass(frozen=True)
class Cleaned:
    """The jobs that were deleted or would be, and what else the run left."""

    jobs: tuple[JobSummary, ...]
    streams: tuple[Leftover, ...]
    run_dirs: tuple[Leftover, ...]

    def facts(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "jobs": [job.name for job in self.jobs],
            "log_streams": [stream.name for stream in self.streams],
            "run_dirs": [
                {"uri": folder.name, "files": folder.num_files, "bytes": folder.num_bytes}
                for folder in self.run_dirs
            ],
        }


def clean_jobs(
    jobs: Sequence[JobSummary],
    region: str = "",
    *,
    older_than_s: float,
    dry_run: bool,
    with_run_dirs: bool,
) -> Cleaned:
    """Delete the jobs that have ended and are old enough, with their log streams.

    `with_run_dirs` deletes also their run directories, unless a live job uses them.
    Raises ConfigError, PlatformError.
    """
    ended = [job for job in jobs if job.has_ended and job.age_s >= older_than_s]
    live = {job.run_dir for job in jobs if not job.has_ended}
    streams = run_jobs.log_streams(ended, region)
    folders = [
        folder
        for folder in run_jobs.run_dirs(ended)
        if not any(f"{other}/".startswith(f"{folder.name}/") for other in live)
    ]
    if not dry_run:
        run_jobs.delete_leftovers([*streams, *(folders if with_run_dirs else [])], region)
        ended = list(run_jobs.delete_jobs(ended, region))
    return Cleaned(tuple(ended), tuple(streams), tuple(folders))


def _with_progress(job: JobSummary) -> JobSummary:
    """Return a live job with step and reward, from the events of its run directory."""
    if job.has_ended or not job.run_dir:
        return job
    known: dict[str, str] = {}
    try:
        for event in parse_events(read_metrics(open_storage(job.run_dir)).splitlines()):
            known |= annotations_of(event)
    except (RLVRError, OSError):  # nothing is written yet, or not readable from here
        return job
    return replace(
        job,
        progress_step=known.get(PROGRESS_STEP_ANNOTATION, ""),
        reward=known.get(REWARD_ANNOTATION, ""),
        progress_phase=known.get(PHASE_ANNOTATION, ""),
    )
