"""Run the body of a step: parse its recipe, turn an error into an exit code and a cause."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlvr_components.pipeline_run import in_kubeflow
from rlvr_trainer.error_mapping import to_rlvr_error
from rlvr_trainer.errors import EXIT_PREEMPTED, RLVRError
from rlvr_trainer.log import configure_logging
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import emit

STARTED = "started step "
"""Beginning of the log line that precedes a step's own output."""


@contextmanager
def step(phase: str, recipe: str) -> Iterator[Recipe]:
    """Parse the recipe (JSON); exit with the code of an error that the body raises."""
    with attempt(phase):
        yield parse_recipe(json.loads(recipe))


@contextmanager
def attempt(phase: str) -> Iterator[None]:
    """Exit with the code of an error that the body raises, and emit its cause."""
    configure_logging()
    print(f"{STARTED}{phase}", flush=True)
    try:
        yield
    except Exception as error:
        cause = to_rlvr_error(error)
        if cause is not error:
            traceback.print_exc()
        code = (
            f" (exit code {cause.exit_code})" if in_kubeflow() else ""
        )  # KFP's launcher drops the code
        print(f"error: {cause}{code}", file=sys.stderr, flush=True)
        if cause.exit_code != EXIT_PREEMPTED:
            with suppress(RLVRError):  # as on a full disk; the log has the cause, too
                emit("failure", phase=phase, message=str(cause), exit_code=cause.exit_code)
        raise SystemExit(cause.exit_code) from None


def log_metrics(metrics: Any, values: Mapping[str, object]) -> None:
    """Log the numbers among `values` to a Metrics artifact, and write them to its file.

    kfp.local reuses a step's outputs only if all of them exist as files.
    """
    numbers = {
        name: float(value) for name, value in values.items() if isinstance(value, int | float)
    }
    for name, value in numbers.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(numbers), encoding="utf-8")
