"""`rlvr compile`."""

from __future__ import annotations

from pathlib import Path

import click

from rlvr_pipelines.cli.options import (
    debug_option,
    load,
    note_files,
    package_options,
    recipe_options,
)


@click.command("compile", short_help="Write the pipeline as KFP's YAML.")
@recipe_options
@click.option(
    "-o",
    "output_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The YAML file to write.",
)
@package_options
@click.option(
    "--kubernetes-manifests",
    is_flag=True,
    help="Write a Pipeline and a PipelineVersion for `kubectl apply`.",
)
@click.option("--namespace", metavar="NAME", help="The namespace of these manifests.")
@debug_option
def compile_command(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    output_file: Path,
    images: tuple[str, ...],
    secret: str,
    kubernetes_manifests: bool,
    namespace: str | None,
) -> None:
    """Write the pipeline with RECIPE as KFP's YAML, the same bytes every time.

    \b
    rlvr compile gsm8k -o pipeline.yaml
    rlvr compile gsm8k -o pipeline.yaml --image trainer=REGISTRY/rlvr-trainer@sha256:…
    rlvr compile gsm8k -o manifests.yaml --kubernetes-manifests --namespace kubeflow
    """
    from rlvr_pipelines.extras import PIPELINES, require

    if namespace and not kubernetes_manifests:
        raise click.UsageError("--namespace needs --kubernetes-manifests; add it")
    loaded = load(recipe, overrides, seed)
    note_files(loaded)
    require(PIPELINES, "compiling")
    from rlvr_pipelines.pipeline.package import compile_pipeline, parse_images

    compile_pipeline(
        loaded,
        output_file,
        images=parse_images(images),
        secret=secret,
        manifest_namespace=(namespace or "") if kubernetes_manifests else None,
    )
    click.echo(f"{output_file}: recipe {loaded.name}, hash {loaded.hash}", err=True)
