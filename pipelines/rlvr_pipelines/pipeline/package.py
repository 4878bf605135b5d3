"""Compile the pipeline to KFP's YAML: the same recipe gives the same bytes."""

from __future__ import annotations

import copy
import re
import tempfile
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from rlvr_components.platform.images import Images
from rlvr_pipelines.pipeline.job_parameters import recipe_parameter
from rlvr_trainer import __version__
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.storage.atomic_files import write_text

COMMENTS = re.compile(r"\A(#.*\n)+")
"""At the beginning of the YAML."""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline."""

    name: str
    """The name of the pipeline: `rlvr-RECIPE`."""
    version: str
    """The version of this package and the hash of the recipe."""
    description: str
    text: str
    """The YAML."""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The object of KFP's API, with the platform's part if there is one."""
        import yaml

        pipeline, *platforms = yaml.load_all(
            self.text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        if not platforms:
            return dict(pipeline)
        return {"pipeline_spec": pipeline, "platform_spec": platforms[0]}


def compile_package(
    recipe: Recipe,
    *,
    images: Images | None = None,
    secret: str = "",
    use_cache: bool = True,
    manifest_namespace: str | None = None,
) -> Package:
    """Compile the pipeline with this recipe as its default, on these images.

    The keys of `secret` are in the steps' environment. With `manifest_namespace` (may be empty),
    the text is a Pipeline and a PipelineVersion for `kubectl apply`.
    """
    from kfp import compiler

    from rlvr_pipelines.pipeline.definition import build

    name, version = f"rlvr-{recipe.name}", f"{__version__}-{recipe.hash}"
    pipeline = copy.deepcopy(build(images, secret=secret))  # other callers may share it
    default = pipeline.pipeline_spec.root.input_definitions.parameters["recipe"].default_value
    default.Clear()  # kfp's own replacement of a default rejects null
    default.struct_value.update(recipe_parameter(recipe))
    if not use_cache:
        _forget_caching(pipeline.pipeline_spec)
    options = compiler.compiler_utils.KubernetesManifestOptions(
        pipeline_name=name,
        pipeline_version_name=f"{name}-{version}",  # unique in the namespace
        pipeline_version_display_name=version,
        namespace=manifest_namespace or None,
        include_pipeline_manifest=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")  # kfp reads the suffix
        compiler.Compiler().compile(
            pipeline,
            str(file),
            pipeline_name=name,
            kubernetes_manifest_options=options,
            kubernetes_manifest_format=manifest_namespace is not None,
        )
        # kfp's summary in comments has the fields of the recipe in an order that changes
        text = COMMENTS.sub("", file.read_text("utf-8"))
    return Package(name, version, recipe.description or f"recipe {recipe.name}", text)


def compile_pipeline(recipe: Recipe, path: Path, **settings: Any) -> None:
    """Write the text of `compile_package`. Raises PlatformError."""
    write_text(path, compile_package(recipe, **settings).text)


def parse_images(values: tuple[str, ...]) -> Images:
    """Parse `trainer=REF` and `components=REF`. Raises ConfigError."""
    names = [field.name for field in fields(Images)]
    images: dict[str, str] = {}
    for value in values:
        name, _, reference = value.partition("=")
        if name not in names or reference.split() != [reference]:
            forms = " or ".join(f"{image}=REGISTRY/NAME@sha256:…" for image in names)
            raise ConfigError(f"--image {value!r} does not name an image; write {forms}")
        images[name] = reference
    return Images(**images)


def _forget_caching(spec: Any) -> None:
    """Disable the cache of every step. (kfp's own switch skips the steps within a group.)"""
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.caching_options.Clear()
