"""How a job ended that was deleted thereby: a file in its run directory.

A job that failed by itself stays, and says so. One that exceeded a limit, or that somebody deleted,
is gone, and Kubeflow's next try of the step would start it from the beginning.
"""

from __future__ import annotations

import json
import time

from rlvr_components.jobs import JobSpec, JobStatus
from rlvr_components.jobs.kube.attempts import Attempt
from rlvr_components.jobs.kube.kinds import Object
from rlvr_components.jobs.kube.status import attempt_of
from rlvr_components.jobs.pods import ATTEMPT_LABEL, JOB_LABEL, RUN_DIR_ANNOTATION
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.storage import open_storage


def keep_end(job: Object, end: JobStatus) -> None:
    """Write it down. Raises ConfigError, PlatformError."""
    metadata = job["metadata"]
    tree = {
        "attempt": attempt_of(job),
        "exit_code": end.exit_code,
        "cause": end.cause,
        "time": round(time.time(), 3),
    }
    storage = open_storage(metadata["annotations"][RUN_DIR_ANNOTATION])
    storage.write_bytes(_key(metadata["labels"][JOB_LABEL]), json.dumps(tree, indent=1).encode())


def kept_end(spec: JobSpec) -> Attempt | None:
    """The attempt that ended so, as one that failed for good; None when there was none.

    Raises ConfigError, PlatformError.
    """
    storage, key = open_storage(spec.run_dir), _key(spec.name_of_all_attempts)
    where = f"{storage.uri}/{key}"
    try:
        tree = json.loads(storage.read_bytes(key))
        number, exit_code, cause = int(tree["attempt"]), int(tree["exit_code"]), tree["cause"]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{where} is damaged ({error!r}); remove it to start the job again"
        ) from None
    cause = f"{cause} (an earlier try of this step; start a new run, or remove {where})"
    return Attempt(
        {"metadata": {"labels": {ATTEMPT_LABEL: str(number)}}},
        JobStatus("failed", exit_code, cause),
    )


def _key(name_of_all_attempts: str) -> str:
    return f"jobs/{name_of_all_attempts}.json"
