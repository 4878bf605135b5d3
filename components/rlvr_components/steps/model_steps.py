"""Run the three steps that load a model, in this process or as a job in a cluster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr_components.pipeline_run import run_folder
from rlvr_components.steps.local_training import last_numbers, train_locally
from rlvr_components.steps.remote_step import (
    EvaluateStep,
    evaluate_remotely,
    open_site,
    train_remotely,
)
from rlvr_trainer import api
from rlvr_trainer.evaluation.outcome import Shares, headline, write_samples
from rlvr_trainer.phases import EVALUATION_LABELS
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import ADAPTER, METRICS, SAMPLES
from rlvr_trainer.run_dir.metrics_log import read_metrics


def evaluate(
    step: EvaluateStep,
    recipe: Recipe,
    data_dir: Path,
    samples_dir: Path,
    *,
    place: str,
    storage: str,
    task_config: Any = None,
    adapter: Any = None,
) -> Shares:
    """Write `samples_dir`/samples.jsonl and return its headline shares.

    `adapter` is KFP's artifact. Raises ConfigError, DataError, JobFailed, PlatformError.
    """
    adapter_dir = Path(adapter.path) if adapter is not None else None
    if place == "local":
        return api.evaluate(
            recipe,
            data_dir,
            samples_dir,
            label=EVALUATION_LABELS[step],
            adapter_dir=adapter_dir,
        )
    site = open_site(storage, task_config)
    samples = evaluate_remotely(
        step,
        recipe,
        data_dir,
        site,
        adapter_dir=adapter_dir,
        adapter_uri=site.adapter_uri(adapter.uri) if adapter is not None else "",
    )
    write_samples(samples_dir / SAMPLES, samples)
    return headline(samples, recipe)


def train(
    recipe: Recipe,
    data_dir: Path,
    adapter: Any,
    history: Path,
    *,
    place: str,
    storage: str,
    task_config: Any = None,
) -> dict[str, float]:
    """Train, put the adapter into its artifact, and return the numbers of the last step.

    Raises ConfigError, DataError, JobFailed, PlatformError.
    """
    if place == "local":
        run = Path(run_folder(storage)) if storage else Path(adapter.path).parent / "run"
        train_locally(recipe, run, data_dir)
        api.adapter_to(run, Path(adapter.path))
        shutil.copyfile(run / METRICS, history)
    else:
        site = open_site(storage, task_config)
        adapter_uri = site.adapter_uri(adapter.uri)
        run_dir = train_remotely(recipe, data_dir, site, adapter_uri)
        if not adapter_uri:
            run_dir.download_dir(ADAPTER, Path(adapter.path))
        history.write_bytes(read_metrics(run_dir))
    adapter.metadata |= describe_model(recipe)
    return last_numbers(history)


def describe_model(recipe: Recipe) -> dict[str, str]:
    """Return the metadata of a recipe's trained model."""
    return {
        "base_model": recipe.model.name,
        "base_revision": recipe.model.revision,
        "recipe_hash": recipe.hash,
    }


def data_facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata that identifies prepared data."""
    hashes = {name: file["sha256"] for name, file in manifest.get("files", {}).items()}
    return {"sha256": json.dumps(hashes, sort_keys=True)}
