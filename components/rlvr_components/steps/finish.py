"""Finish a pipeline run in any state: delete the jobs that still run, write the outcome."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from rlvr_components.jobs import JobSummary
from rlvr_components.pipeline_run import (
    LaunchSettings,
    default_storage,
    in_kubeflow,
    may_have_live_jobs,
    own_namespace,
    read_settings,
    record_launch,
    run_folder,
    run_id,
)
from rlvr_components.platform.settings import Platform
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_components.steps.run_outcome import read_outcome
from rlvr_trainer.errors import RLVRError
from rlvr_trainer.storage import open_storage

logger = logging.getLogger(__name__)

OUTCOME = "outcome.json"


def finish(storage_uri: str, artifact_uri: str, state: str, message: str) -> str:
    """Delete the jobs that still run, write the outcome to the run's folder, return it as Markdown.

    Outside Kubeflow the cluster is asked only if a job was launched since the last answer.
    `artifact_uri` is that of any artifact of this pipeline run.
    """
    folder, settings, is_launched = "", None, False
    try:
        folder = run_folder(storage_uri or default_storage(artifact_uri))
        settings = read_settings(open_storage(folder))
        is_launched = settings is not None and may_have_live_jobs(open_storage(folder))
    except (RLVRError, ValueError, TypeError, KeyError) as error:  # pydantic's are ValueErrors
        logger.warning("the launch settings cannot be read: %s", error)
    jobs: list[JobSummary] = []
    deleted: list[str] | None = []
    if is_launched or in_kubeflow():  # even without settings: GPUs must not stay busy
        try:
            jobs = find_run_jobs(settings)
            deleted = delete_live_jobs(jobs, settings)
        except RLVRError as error:
            deleted = None
            logger.warning("jobs may be left running: %s", error)
    outcome = read_outcome(state, message, jobs)
    if settings is not None:
        _write_outcome(folder, {**outcome.facts(), "deleted": deleted}, is_launched=deleted is None)
    return f"{outcome.markdown()}\n{describe_deleted(deleted)}\n"


def find_run_jobs(settings: LaunchSettings | None) -> list[JobSummary]:
    """Return this run's jobs, newest first; without settings, those in this pod's namespace.

    Raises ConfigError, PlatformError.
    """
    platform = settings.platform if settings else None
    if settings and isinstance(platform, SageMaker):
        from rlvr_components.sagemaker import run_jobs

        return run_jobs.find_jobs(platform.region, run=settings.run_name, run_id=run_id())
    from rlvr_components.jobs.cluster import find_jobs

    namespace = platform.namespace if isinstance(platform, Platform) else ""
    return find_jobs(namespace=namespace or own_namespace(), run_id=run_id())


def delete_live_jobs(jobs: Sequence[JobSummary], settings: LaunchSettings | None) -> list[str]:
    """Delete the jobs that have not terminated; return their names.

    On SageMaker they are stopped, and the warm pools of all are released: no job follows.
    Raises ConfigError, PlatformError.
    """
    if settings and isinstance(settings.platform, SageMaker):
        from rlvr_components.sagemaker import run_jobs

        stopped = run_jobs.stop_jobs(jobs, settings.platform.region)
        if settings.platform.keep_alive_s:
            run_jobs.await_end(stopped, settings.platform.region)
        return [job.name for job in stopped]
    from rlvr_components.jobs.cluster import delete_jobs

    return [job.name for job in delete_jobs([job for job in jobs if not job.has_ended])]


def describe_deleted(deleted: list[str] | None) -> str:
    """Return Markdown for the UI; `deleted` is None if the cluster could not be asked."""
    if deleted is None:
        return "Jobs may be left running; see the log of this step."
    if deleted:
        names = ", ".join(f"`{name}`" for name in deleted)
        return f"Deleted jobs that were still running: {names}."
    return "No jobs were left running."


def _write_outcome(folder: str, outcome: dict[str, Any], *, is_launched: bool) -> None:
    try:
        record_launch(open_storage(folder), is_launched=is_launched)
        open_storage(folder).write_bytes(OUTCOME, json.dumps(outcome, indent=2).encode())
    except RLVRError as error:
        logger.warning("the outcome is only in this step's artifact: %s", error)
