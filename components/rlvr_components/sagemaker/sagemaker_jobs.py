"""Create, find, stop and delete jobs on SageMaker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from rlvr_components.sagemaker.aws_api import AwsApi
from rlvr_components.sagemaker.aws_errors import JobMissing, NameTaken, WrongState
from rlvr_components.sagemaker.job_state import Job, facts_of, has_ended, has_warm_pool, is_ours
from rlvr_components.sagemaker.training_request import SPEC_HASH, Request
from rlvr_trainer.errors import EXIT_PREEMPTED, ConfigError, JobFailed, PlatformError

logger = logging.getLogger(__name__)

SERVICE = "sagemaker"
PREFIX = "rlvr-"
"""Beginning of the names of our jobs."""
PAGE_SIZE = 100


def create_or_find(api: AwsApi, request: Request, is_stopped: Callable[[], bool]) -> Job:
    """Create the job, or adopt the one that an earlier request created from the same spec.

    The earlier request may be this one, accepted although its answer was lost. Raises ConfigError
    if another job has its name, PlatformError, JobFailed if stopped.
    """
    name = str(request["TrainingJobName"])
    stopped = JobFailed("stopped before the job was submitted", exit_code=EXIT_PREEMPTED)
    if is_stopped():
        raise stopped
    try:
        api.call(SERVICE, "CreateTrainingJob", name, **request)
    except PlatformError:
        if not is_stopped():
            raise
        stop_job(api, name)  # the request may have been accepted all the same
        raise stopped from None
    except NameTaken:
        existing = describe(api, name)
        check_same_spec(request, existing)
        if existing["TrainingJobStatus"] in ("Failed", "Stopped", "Deleting"):
            raise ConfigError(
                f"job {name} exists and is {existing['TrainingJobStatus']}; run the same command "
                "again for another attempt"
            ) from None
        logger.info("%s exists already and is followed", name)
        return existing
    return describe(api, name)


def check_same_spec(request: Request, existing: Job) -> None:
    """Raise ConfigError unless the job was submitted by us from the same spec."""
    name, facts = request["TrainingJobName"], facts_of(existing)
    ours, theirs = facts_of(request)[SPEC_HASH], facts.get(SPEC_HASH, "none")
    if not is_ours(existing):
        raise ConfigError(
            f"job {name} exists and was not created by rlvr; choose another name in the recipe"
        )
    if ours != theirs:
        raise ConfigError(
            f"job {name} exists with another spec (hash {theirs}, ours is {ours}); continue with "
            f"the settings that it has, or stop and delete it first (`rlvr stop {name}`, "
            f"`rlvr clean {name} --on sagemaker`)"
        )


def describe(api: AwsApi, name: str) -> Job:
    """Return the job. Raises JobMissing, ConfigError, PlatformError."""
    return api.call(SERVICE, "DescribeTrainingJob", name, TrainingJobName=name)


def names_of_jobs(api: AwsApi, beginning: str) -> Iterator[str]:
    """Yield the names that begin like that, newest first. Raises ConfigError, PlatformError."""
    pages = api.pages(
        SERVICE,
        "ListTrainingJobs",
        f"jobs {beginning}*",
        NameContains=beginning,
        SortBy="CreationTime",
        SortOrder="Descending",
        MaxResults=PAGE_SIZE,
    )
    for page in pages:
        for summary in page["TrainingJobSummaries"]:
            if str(summary["TrainingJobName"]).startswith(beginning):
                yield str(summary["TrainingJobName"])


def jobs_named(api: AwsApi, beginning: str) -> Iterator[Job]:
    """Yield our jobs whose names begin like that, newest first.

    Raises ConfigError, PlatformError.
    """
    for name in names_of_jobs(api, beginning):
        try:
            job = describe(api, name)
        except JobMissing:  # deleted meanwhile
            continue
        if is_ours(job):
            yield job


def stop_job(api: AwsApi, name: str) -> bool:
    """Ask the job to stop; return False if it has ended or does not exist.

    Raises ConfigError, PlatformError.
    """
    try:
        api.call(SERVICE, "StopTrainingJob", name, TrainingJobName=name)
    except (JobMissing, WrongState):
        return False
    return True


def release_warm_pool(api: AwsApi, name: str) -> bool:
    """Give back instances that are kept after the job; return False if there are none.

    Raises ConfigError, PlatformError.
    """
    if not has_warm_pool(describe(api, name)):
        return False
    try:
        api.call(
            SERVICE,
            "UpdateTrainingJob",
            name,
            TrainingJobName=name,
            ResourceConfig={"KeepAlivePeriodInSeconds": 0},
        )
    except (JobMissing, WrongState):  # another job has taken the instances, or their time is over
        return False
    return True


def delete_job(api: AwsApi, job: Job) -> bool:
    """Delete a job that has ended; return False if it does not exist.

    Raises ConfigError, PlatformError.
    """
    name = str(job["TrainingJobName"])
    if not has_ended(job):
        raise ConfigError(f"job {name} still runs; stop it first (`rlvr stop {name}`)")
    release_warm_pool(api, name)  # SageMaker refuses to delete a job with one
    try:
        api.call(SERVICE, "DeleteTrainingJob", name, TrainingJobName=name)
    except JobMissing:
        return False
    return True
