"""Publish a trained model to a folder or S3, below the recipe's and the run's name."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rlvr_components.pipeline_run import run_id
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import ADAPTER, EVALUATION, RECIPE
from rlvr_trainer.storage import open_storage
from rlvr_trainer.storage.atomic_files import write_text


def describe(target: str, *, is_requested: bool) -> str:
    """Return what the step decided, as Markdown; `target` is empty for a model not published."""
    if target:
        return f"Published to `{target}`."
    if is_requested:
        return "Not published: accuracy did not rise significantly."
    return "Not published: publish_uri is empty."


def publish_model(
    recipe: Recipe, adapter_dir: Path, evaluation: Path, uri: str, *, merge: bool
) -> str:
    """Write the adapter or the merged model with its card below `uri`; return its URI.

    Every run has its own folder, so that no run replaces the model of another.
    Raises ConfigError, PlatformError.
    """
    from rlvr_trainer.publishing import publish

    with tempfile.TemporaryDirectory() as temporary:
        run_dir, model = Path(temporary, "run"), Path(temporary, "model")
        write_text(run_dir / RECIPE, recipe.model_dump_json(indent=2) + "\n")
        shutil.copytree(adapter_dir, run_dir / ADAPTER)
        shutil.copyfile(evaluation, run_dir / EVALUATION)
        publish(run_dir, model, merge=merge)
        target = open_storage(f"{uri.rstrip('/')}/{recipe.name}/{run_id()}")
        target.upload_dir(model, "")
    return target.uri
