"""`rlvr upload`."""

from __future__ import annotations

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import access_options
from rlvr_pipelines.cli.options import (
    debug_option,
    load,
    note_files,
    output_option,
    package_options,
    print_json,
    recipe_options,
)


@click.command(short_help="Upload the pipeline to Kubeflow.")
@recipe_options
@package_options
@access_options
@output_option
@debug_option
def upload(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    images: tuple[str, ...],
    secret: str,
    access: AccessOptions,
    output: str,
) -> None:
    """Upload the pipeline with RECIPE to Kubeflow, as a version of its own.

    The version is named by package and recipe. The same bytes are uploaded once; other content of
    the same name (another image, say) becomes a version with a hash in its name.

    \b
    rlvr upload gsm8k --endpoint http://localhost:8080
    """
    from rlvr_pipelines.extras import PIPELINES, require

    loaded = load(recipe, overrides, seed)
    note_files(loaded)
    require(PIPELINES, "an upload")
    from rlvr_pipelines.kubeflow.connection import connect
    from rlvr_pipelines.kubeflow.versions import upload_package
    from rlvr_pipelines.pipeline.package import compile_package, parse_images

    package = compile_package(loaded, images=parse_images(images), secret=secret)
    uploaded = upload_package(connect(access), package)
    if output == "json":
        print_json(vars(uploaded))
        return
    match uploaded.outcome:
        case "created":
            what = "is a new pipeline"
        case "added":
            what = "has a new version"
        case "unchanged":
            what = "has this version already"
    click.echo(f"{uploaded.pipeline} {what}: {uploaded.version}")
    click.echo(f"pipeline  {uploaded.pipeline_id}")
    click.echo(f"version   {uploaded.version_id}")
    click.echo(uploaded.link)
