"""What surrounds the body of every component: the recipe in, the cause of a failure out.

A component's process has no other way to say why it failed than its exit code and its log, and
kfp.local keeps neither. So the cause is also written to the file that RLVR_FAILURE names.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlvr_components.pipeline_run import in_kubeflow
from rlvr_trainer.errors import RLVRError
from rlvr_trainer.files import DISK_ERRNOS, disk_error
from rlvr_trainer.log import configure_logging
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import parse_recipe

FAILURE_VARIABLE = "RLVR_FAILURE"
"""Environment variable that names the file for the cause of a failed step."""

OUTPUTS_VARIABLE = "RLVR_OUTPUTS"
"""Environment variable that names the file for where a run on this machine left its outputs."""

STARTED = "started step "
"""Begins the line after which a step's own output stands in the log."""


@contextmanager
def step(phase: str, recipe: str) -> Iterator[Recipe]:
    """Parse the recipe (JSON); end the process with the code of an error that the body raises."""
    with attempt(phase):
        yield parse_recipe(json.loads(recipe))


@contextmanager
def attempt(phase: str) -> Iterator[None]:
    """End the process with the code of an error that the body raises, and leave its cause."""
    configure_logging()
    print(f"{STARTED}{phase}", flush=True)
    try:
        yield
    except Exception as error:
        cause = _as_rlvr_error(error)
        if cause is not error:
            traceback.print_exc()
        code = f" (exit code {cause.exit_code})" if in_kubeflow() else ""  # its launcher drops it
        print(f"error: {cause}{code}", file=sys.stderr, flush=True)
        _record(phase, cause)
        raise SystemExit(cause.exit_code) from None


def log_metrics(metrics: Any, values: Mapping[str, object]) -> None:
    """Log the numbers among `values` to a Metrics artifact, and write them to its file.

    kfp.local reuses a step's outputs only if each of them exists as a file.
    """
    numbers = {
        name: float(value) for name, value in values.items() if isinstance(value, int | float)
    }
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(numbers), encoding="utf-8")


def record_outputs(**paths: str) -> None:
    """Add to what RLVR_OUTPUTS names; a pipeline gives no outputs of steps within a group."""
    file = os.environ.get(OUTPUTS_VARIABLE)
    if file:
        path = Path(file)
        known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**known, **paths}), encoding="utf-8")


def _as_rlvr_error(error: Exception) -> RLVRError:
    if isinstance(error, RLVRError):
        return error
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return disk_error(Path(error.filename or "a file"), error)
    return RLVRError(f"unexpected {type(error).__name__}: {error}; the log has its traceback")


def _record(phase: str, cause: RLVRError) -> None:
    path = os.environ.get(FAILURE_VARIABLE)
    if not path:
        return
    failure = {"phase": phase, "message": str(cause), "exit_code": cause.exit_code}
    try:
        Path(path).write_text(json.dumps(failure), encoding="utf-8")
    except OSError as error:  # a full disk, as a rule; the log has the cause too
        print(f"{path} cannot be written ({error.strerror})", file=sys.stderr)
