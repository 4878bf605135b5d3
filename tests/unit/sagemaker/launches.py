"""Launches of short programs on the fake SageMaker, in place of a training."""

from __future__ import annotations

import sys
from typing import Any

from rlvr_components.jobs import JobSpec
from rlvr_components.sagemaker.sagemaker_backend import SageMakerBackend
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_components.sagemaker.training_request import sagemaker_job
from rlvr_trainer.recipe.reader import load_recipe

ROLE = "arn:aws:iam::123456789012:role/rlvr-trainer"
IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/rlvr/rlvr-trainer@sha256:" + "a" * 64
SETTINGS: dict[str, Any] = {"role_arn": ROLE, "image": IMAGE, "instance_type": "ml.g6e.48xlarge"}

UNTIL_TERMINATED = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("committed", flush=True), sys.exit(143)))
print("training", flush=True)
time.sleep(60)
"""


def program(code: str) -> Any:
    """Return a container command that runs this Python code in place of the trainer."""
    return lambda command: [sys.executable, "-S", "-c", code, *command]


def failing(code: int, text: str = "") -> Any:
    """Return a container command that writes the failure file and exits with the code."""
    return program(
        "import os, pathlib, sys\n"
        f"pathlib.Path(os.environ['RLVR_SAGEMAKER_ROOT'], 'output/failure').write_text({text!r})\n"
        f"sys.exit({code})"
    )


def spec_of(storage: str, settings: SageMaker, **changes: Any) -> JobSpec:
    """Return a training of the arithmetic recipe."""
    overrides = changes.pop("overrides", [])
    return sagemaker_job(
        load_recipe("arithmetic", overrides),
        settings,
        {},
        **{
            "run_name": "sums",
            "run_dir": f"{storage}/sums-1",
            "run_id": "sums-1",
            **changes,
        },
    )


def backend_of(**changes: Any) -> SageMakerBackend:
    """Return a backend that polls quickly."""
    settings = SageMaker.model_validate({**SETTINGS, **changes})
    return SageMakerBackend(settings, poll_s=0.05, quiet_s=0.2)
