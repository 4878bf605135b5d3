"""Find, stop and delete the jobs of a run, with what they left behind."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rlvr_components.jobs.job import JobSummary
from rlvr_components.sagemaker.aws_api import AwsApi
from rlvr_components.sagemaker.aws_errors import JobMissing
from rlvr_components.sagemaker.cloudwatch_lines import LOG_GROUP, CloudWatchLines
from rlvr_components.sagemaker.job_state import has_ended, is_ours, summary_of
from rlvr_components.sagemaker.sagemaker_jobs import (
    PREFIX,
    delete_job,
    describe,
    jobs_named,
    release_warm_pool,
    stop_job,
)
from rlvr_trainer.errors import PlatformError, RLVRError
from rlvr_trainer.storage import open_storage

logger = logging.getLogger(__name__)

ASK_PATIENCE_S = 5.0
"""Patience with AWS while a user waits at a terminal."""
END_TIMEOUT_S = 300.0
"""Time for a stopped job to end: 120 s after SIGTERM, and the upload of its model."""
POLL_S = 2.0


def find_jobs(
    region: str = "", *, run: str = "", run_id: str = "", job: str = ""
) -> list[JobSummary]:
    """Return the jobs of rlvr, newest first, of a run or with `job` the one of that name.

    Raises ConfigError, PlatformError.
    """
    api = AwsApi(region, patience_s=ASK_PATIENCE_S)
    if job:
        try:
            described = [describe(api, job)]
        except JobMissing:
            return []
    else:
        described = list(jobs_named(api, f"{PREFIX}{run}-" if run else PREFIX))
    summaries = [
        summary_of(one, region=api.region, now=datetime.now(UTC))
        for one in described
        if is_ours(one)
    ]
    return [
        summary
        for summary in summaries
        if run in ("", summary.run) and run_id in ("", summary.run_id)
    ]


def stop_jobs(jobs: Iterable[JobSummary], region: str = "") -> list[JobSummary]:
    """Ask the live jobs to stop, and release the warm pools of all; return those that were live.

    Raises ConfigError, PlatformError.
    """
    api = AwsApi(region, patience_s=ASK_PATIENCE_S)
    stopped = []
    for job in jobs:
        if not job.has_ended and stop_job(api, job.name):
            stopped.append(job)
        elif job.has_ended:
            try_to_release(api, job.name)
    return stopped


def await_end(jobs: Sequence[JobSummary], region: str = "") -> None:
    """Wait until the jobs have ended, and release their warm pools. Raises PlatformError."""
    api = AwsApi(region)
    deadline = time.monotonic() + END_TIMEOUT_S
    for job in jobs:
        while not has_ended(describe(api, job.name)):
            if time.monotonic() > deadline:
                raise PlatformError(
                    f"{job.name} still runs {END_TIMEOUT_S:.0f} s after it was stopped; look at it "
                    "in SageMaker's console"
                )
            time.sleep(POLL_S)
        try_to_release(api, job.name)


def try_to_release(api: AwsApi, name: str) -> None:
    """Release the job's warm pool; only log a failure."""
    try:
        if release_warm_pool(api, name):
            logger.info("the warm pool of %s is released", name)
    except JobMissing:
        return
    except RLVRError as error:
        logger.warning("the warm pool of %s may cost until its end: %s", name, error)


@dataclass(frozen=True)
class Leftover:
    """Something that a run left behind, apart from its jobs."""

    kind: str
    """`log stream`, `run directory`."""
    name: str
    num_files: int = 0
    num_bytes: int = 0


def log_streams(jobs: Iterable[JobSummary], region: str = "") -> list[Leftover]:
    """Return the log streams of the jobs. Raises ConfigError, PlatformError."""
    api = AwsApi(region, patience_s=ASK_PATIENCE_S)
    return [
        Leftover("log stream", stream)
        for job in jobs
        for stream in CloudWatchLines(api, job.name).streams()
    ]


def run_dirs(jobs: Iterable[JobSummary]) -> list[Leftover]:
    """Return the jobs' folders in S3: checkpoints, adapter, artifacts, samples.

    Raises ConfigError, PlatformError.
    """
    folders = sorted({job.run_dir for job in jobs if job.run_dir})
    outermost = [
        folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)
    ]
    listed = [(folder, open_storage(folder).sizes()) for folder in outermost]
    return [
        Leftover("run directory", folder, len(sizes), sum(sizes.values()))
        for folder, sizes in listed
        if sizes
    ]


def delete_jobs(jobs: Iterable[JobSummary], region: str = "") -> Iterator[JobSummary]:
    """Delete the jobs that have ended; yield those that existed.

    Raises ConfigError, PlatformError.
    """
    api = AwsApi(region)
    for job in jobs:
        try:
            if delete_job(api, describe(api, job.name)):
                yield job
        except JobMissing:
            continue


def delete_leftovers(leftovers: Iterable[Leftover], region: str = "") -> None:
    """Delete log streams, and run directories with all of their files.

    Raises ConfigError, PlatformError.
    """
    api = AwsApi(region)
    for leftover in leftovers:
        if leftover.kind == "log stream":
            try:
                api.call(
                    "logs",
                    "DeleteLogStream",
                    leftover.name,
                    logGroupName=LOG_GROUP,
                    logStreamName=leftover.name,
                )
            except JobMissing:
                continue
        else:
            storage = open_storage(leftover.name)
            for key in storage.sizes():
                storage.delete(key)
