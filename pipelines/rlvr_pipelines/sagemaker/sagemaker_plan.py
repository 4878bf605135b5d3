"""Plan the job that a run on SageMaker would submit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr_components.preflight.sagemaker_checks import check_types
from rlvr_components.sagemaker.sagemaker_settings import parse_sagemaker
from rlvr_components.sagemaker.training_request import render_request, sagemaker_job
from rlvr_pipelines.cluster.job_plan import ClusterJob, run_id_of
from rlvr_trainer.recipe.schema import Recipe

ORIGIN = "--sagemaker and --sagemaker-set"


def plan_job(
    recipe: Recipe,
    settings: Mapping[str, Any],
    *,
    storage: str,
    run_dir: Path,
    environment: Mapping[str, str] = os.environ,
) -> ClusterJob:
    """Render the training job of the run in `run_dir`. Asks nothing of AWS.

    Raises ConfigError for settings or a job that SageMaker would refuse.
    """
    parsed = parse_sagemaker(settings, origin=ORIGIN)
    check_types(parsed)
    run_id = run_id_of(recipe, run_dir)
    spec = sagemaker_job(
        recipe,
        parsed,
        environment,
        run_name=recipe.name,
        run_dir=f"{storage.rstrip('/')}/{run_id}",
        run_id=run_id,
    )
    return ClusterJob(parsed, spec, render_request(spec, parsed))


def describe_jobs(request: Mapping[str, Any]) -> str:
    """Return which jobs the run makes, and for what they wait and cost between them."""
    keep_alive_s = request["ResourceConfig"].get("KeepAlivePeriodInSeconds")
    kept = (
        f"the instances stay for up to {keep_alive_s} s after each (billed), so that the "
        "next starts at once; they are released at the end"
        if keep_alive_s
        else "each waits for instances and starts them, which takes minutes; keep_alive_s=1800 "
        "keeps them for the next (billed)"
    )
    return f"3 jobs: evaluate-base, train, evaluate-trained; {kept}"
