"""Finish a pipeline run in any state: delete the jobs that still run, write the outcome.

A job whose launcher was lost is left to KFP's Retry of the run, which does not run this step again:
the job ends by itself, by its deadlines, or with the Workflow that owns it.
"""

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
    jobs: list[JobSummary] | None = []
    if is_launched or in_kubeflow():  # even without settings: GPUs must not stay busy
        jobs = _find_run_jobs(settings)
    outcome = read_outcome(state, message, jobs or [])
    left = [job.name for job in jobs or [] if not job.has_ended and job.step in outcome.lost]
    unwanted = [job for job in jobs or [] if job.name not in left]
    deleted = None if jobs is None else _delete(unwanted, settings)
    if settings is not None:
        is_launched = deleted is None or bool(left)
        facts = {**outcome.facts(), "deleted": deleted, "left": left}
        _write_outcome(folder, facts, is_launched=is_launched)
    return f"{outcome.markdown()}\n{describe_jobs(deleted, left)}\n"


def _find_run_jobs(settings: LaunchSettings | None) -> list[JobSummary] | None:
    """Return this run's jobs, newest first; None if their place does not answer.

    Without settings, those in this pod's namespace.
    """
    try:
        platform = settings.platform if settings else None
        if settings and isinstance(platform, SageMaker):
            from rlvr_components.sagemaker import run_jobs

            return run_jobs.find_jobs(platform.region, run=settings.run_name, run_id=run_id())
        from rlvr_components.jobs.cluster import find_jobs

        namespace = platform.namespace if isinstance(platform, Platform) else ""
        return find_jobs(namespace=namespace or own_namespace(), run_id=run_id())
    except RLVRError as error:
        logger.warning("jobs may be left running: %s", error)
        return None


def _delete(jobs: Sequence[JobSummary], settings: LaunchSettings | None) -> list[str] | None:
    """Delete the jobs that still run; return their names, or None if their place does not answer.

    On SageMaker they are stopped, and the warm pools of all are released: no job follows.
    KFP's Retry of the run starts them again, as if they had not been deleted.
    """
    try:
        if settings and isinstance(settings.platform, SageMaker):
            from rlvr_components.sagemaker import run_jobs

            stopped = run_jobs.stop_jobs(jobs, settings.platform.region)
            if settings.platform.keep_alive_s:
                run_jobs.await_end(stopped, settings.platform.region)
            return [job.name for job in stopped]
        live = [job for job in jobs if not job.has_ended]
        if not live:
            return []
        from rlvr_components.jobs.cluster import delete_jobs, forget_deletion

        deleted = delete_jobs(live)
    except RLVRError as error:
        logger.warning("jobs may be left running: %s", error)
        return None
    for job in deleted:
        forget_deletion(job)
    return [job.name for job in deleted]


def describe_jobs(deleted: Sequence[str] | None, left: Sequence[str]) -> str:
    """Return Markdown for the UI; `deleted` is None if the cluster could not be asked."""
    if deleted is None:
        return "Jobs may be left running; see the log of this step."
    parts = []
    if deleted:
        parts += [f"Deleted jobs that were still running: {_names(deleted)}."]
    if left:
        parts += [
            f"**Still running**, for KFP's Retry to adopt: {_names(left)}; "
            f"`rlvr stop {run_id()}` stops them."
        ]
    return "\n\n".join(parts) or "No jobs were left running."


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _write_outcome(folder: str, outcome: dict[str, Any], *, is_launched: bool) -> None:
    try:
        record_launch(open_storage(folder), is_launched=is_launched)
        open_storage(folder).write_bytes(OUTCOME, json.dumps(outcome, indent=2).encode())
    except RLVRError as error:
        logger.warning("the outcome is only in this step's artifact: %s", error)
