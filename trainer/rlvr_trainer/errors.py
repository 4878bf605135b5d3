"""Define the errors that are meant for the user, each with an exit code.

    RLVRError                1    unexpected
    ├── ConfigError          2    the recipe or the command line
    ├── DataError            3    rows, files, splits
    ├── CheckpointError      4    no valid checkpoint, or one that does not fit
    ├── RewardError          5    a verifier fails too often
    ├── Diverged             6    the loss or the logits are not finite
    ├── JobFailed            7    a launched job ended in failure
    └── PlatformError      138    disk, network, GPU, cluster: worth retrying

Codes from 2 to 99 are permanent, 138 and 143 (preempted after a commit) may be retried.
A message has three parts: what was got, what is wrong with it, what to do.
"""

from __future__ import annotations

EXIT_PREEMPTED = 143


class RLVRError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    exit_code = 1


class ConfigError(RLVRError):
    """The recipe, an override or an argument is not valid."""

    exit_code = 2


class DataError(RLVRError):
    """The rows cannot be read, or too many of them are unusable."""

    exit_code = 3


class CheckpointError(RLVRError):
    """There are checkpoints, but none to resume from."""

    exit_code = 4


class RewardError(RLVRError):
    """A verifier failed on more completions than the recipe allows."""

    exit_code = 5


class Diverged(RLVRError):
    """The logits, or the loss of several steps in a row, are not finite."""

    exit_code = 6


class JobFailed(RLVRError):
    """A launched job ended in failure; `cause` is the first real one."""

    exit_code = 7

    def __init__(self, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class PlatformError(RLVRError):
    """The disk, the network or the cluster failed; another attempt may succeed."""

    exit_code = 138
