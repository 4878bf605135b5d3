"""The pipeline as KFP's YAML: the same recipe gives the same bytes."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from rlvr_components.platform.images import Images
from rlvr_trainer import __version__
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.storage.atomic_files import write_text


@dataclass(frozen=True)
class Package:
    """A compiled pipeline."""

    name: str
    """Of the pipeline: `rlvr-RECIPE`."""
    version: str
    """Of this package and of the recipe."""
    description: str
    text: str
    """YAML."""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """As KFP's API takes it and gives it back: with its platform's part, if there is one."""
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
    """The pipeline with this recipe as its default, on these images.

    The steps' environment has the keys of `secret`. With `manifest_namespace` (empty: none in
    particular) the text is a Pipeline and a PipelineVersion for `kubectl apply`.
    """
    from kfp import compiler

    from rlvr_pipelines.pipeline.definition import build

    name, version = f"rlvr-{recipe.name}", f"{__version__}-{recipe.hash}"
    pipeline = build(images, secret=secret)
    if not use_cache:
        pipeline = copy.deepcopy(pipeline)  # the module's may be everyone's
        _forget_caching(pipeline.pipeline_spec)
    options = compiler.compiler_utils.KubernetesManifestOptions(
        pipeline_name=name,
        pipeline_version_name=f"{name}-{version}",  # one of its kind in the namespace
        pipeline_version_display_name=version,
        namespace=manifest_namespace or None,
        include_pipeline_manifest=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")  # kfp goes by the suffix
        compiler.Compiler().compile(
            pipeline,
            str(file),
            pipeline_name=name,
            pipeline_parameters={"recipe": recipe.model_dump_json()},
            kubernetes_manifest_options=options,
            kubernetes_manifest_format=manifest_namespace is not None,
        )
        text = file.read_text("utf-8")
    return Package(name, version, recipe.description or f"recipe {recipe.name}", text)


def compile_pipeline(recipe: Recipe, path: Path, **settings: Any) -> None:
    """Write what `compile_package` gives. Raises PlatformError."""
    write_text(path, compile_package(recipe, **settings).text)


def parse_images(values: tuple[str, ...]) -> Images:
    """`trainer=REF` and `components=REF`. Raises ConfigError."""
    names = [field.name for field in fields(Images)]
    images: dict[str, str] = {}
    for value in values:
        name, _, reference = value.partition("=")
        if name not in names or reference.split() != [reference]:
            forms = " or ".join(f"{each}=REGISTRY/NAME@sha256:…" for each in names)
            raise ConfigError(f"--image {value!r} names no image of ours; write it as {forms}")
        images[name] = reference
    return Images(**images)


def _forget_caching(spec: Any) -> None:
    """No step's outputs are reused. (kfp's own switch leaves out the steps within a group.)"""
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.caching_options.Clear()
