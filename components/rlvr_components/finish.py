"""The end of a pipeline run, however it came: nothing is left running, and the outcome is kept."""

from __future__ import annotations

import json
import logging
from typing import Any

from rlvr_components.pipeline_run import (
    default_storage,
    in_kubeflow,
    own_namespace,
    read_settings,
    run_folder,
    run_id,
)
from rlvr_trainer.errors import RLVRError
from rlvr_trainer.storage import open_storage

logger = logging.getLogger(__name__)

OUTCOME = "outcome.json"


def finish(storage_uri: str, artifact_uri: str, state: str, message: str) -> str:
    """Delete what still runs, keep the outcome in the run's folder, and tell it as Markdown.

    `artifact_uri` is that of any artifact of this pipeline run. Raises ConfigError, PlatformError.
    """
    folder, settings = "", None
    try:
        folder = run_folder(storage_uri or default_storage(artifact_uri))
        settings = read_settings(open_storage(folder))
    except (RLVRError, ValueError, TypeError, KeyError) as error:  # pydantic's are ValueErrors
        logger.warning("there are no settings of a launch: %s", error)
    deleted: list[str] | None = []
    if settings is not None:
        deleted = delete_live_jobs(settings.platform.namespace)
        _keep(folder, {"state": state, "message": message, "deleted": deleted})
    elif in_kubeflow():  # a storage that does not answer is no reason to leave GPUs busy
        try:
            deleted = delete_live_jobs("")
        except RLVRError as error:
            deleted = None
            logger.warning("whether jobs are left is not known: %s", error)
    return describe_outcome(state, message, deleted)


def delete_live_jobs(namespace: str) -> list[str]:
    """Delete this run's jobs that have not ended; their names. Empty: this pod's namespace.

    Raises ConfigError, PlatformError.
    """
    from rlvr_components.jobs.cluster import delete_jobs, find_jobs

    jobs = find_jobs(namespace=namespace or own_namespace(), run_id=run_id())
    return [job.name for job in delete_jobs([job for job in jobs if not job.has_ended])]


def describe_outcome(state: str, message: str, deleted: list[str] | None) -> str:
    """For the UI, as Markdown; `deleted` is None where nobody could look."""
    lines = [f"# {state.replace('_', ' ').capitalize()}", ""]
    lines += [message, ""] if message else []
    if deleted is None:
        lines.append("Whether jobs are left is not known: the log of this step says why.")
    elif deleted:
        names = ", ".join(f"`{name}`" for name in deleted)
        lines.append(f"Deleted what was still running: {names}.")
    else:
        lines.append("Nothing was left running.")
    return "\n".join(lines) + "\n"


def _keep(folder: str, outcome: dict[str, Any]) -> None:
    try:
        open_storage(folder).write_bytes(OUTCOME, json.dumps(outcome, indent=2).encode())
    except RLVRError as error:
        logger.warning("the outcome is kept in this step's artifact only: %s", error)
