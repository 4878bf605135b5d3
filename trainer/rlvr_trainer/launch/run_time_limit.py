"""Stop a training by itself before the service stops it, so that its last step is committed."""

from __future__ import annotations

from collections.abc import Mapping

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.launch.processes import StopRequest
from rlvr_trainer.variables import MAX_RUNTIME_VARIABLE

MAX_RUNTIME_REASON = "the maximal run time"
"""Beginning of the reason that the cause of such a stop names."""


def stop_before_limit(stop: StopRequest, environ: Mapping[str, str]) -> None:
    """Request a stop in time before the job's maximal run time, if it has one.

    Raises ConfigError.
    """
    limit = environ.get(MAX_RUNTIME_VARIABLE)
    if not limit:
        return
    if not limit.isdecimal() or not int(limit):
        raise ConfigError(f"{MAX_RUNTIME_VARIABLE} is {limit!r}; write a number of seconds above 0")
    stop.after(seconds_to_train(int(limit)), f"{MAX_RUNTIME_REASON} of {limit} s")


def seconds_to_train(max_runtime_s: int) -> float:
    """Return the seconds from the start after which training stops.

    A tenth of the maximal run time, 2 to 15 minutes but at most half of it, is left: for the step
    that runs, for the commit, and for the download of the image, which SageMaker counts too.
    """
    return max_runtime_s - min(900, max(120, max_runtime_s / 10), max_runtime_s / 2)
