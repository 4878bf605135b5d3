"""The pipeline as KFP's YAML: the same recipe gives the same bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rlvr_trainer.files import write_text
from rlvr_trainer.recipe import Recipe


def compile_pipeline(recipe: Recipe, path: Path) -> None:
    """Write the pipeline with this recipe as its default. Raises PlatformError."""
    from kfp import compiler

    from rlvr_pipelines.pipeline import rlvr_pipeline

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")  # kfp goes by the suffix
        compiler.Compiler().compile(
            rlvr_pipeline,
            str(file),
            pipeline_name=f"rlvr-{recipe.name}",
            pipeline_parameters={"recipe": recipe.model_dump_json()},
        )
        write_text(path, file.read_text("utf-8"))
