"""`rlvr compile`."""

from __future__ import annotations

from pathlib import Path

import click

from rlvr_pipelines.cli.options import debug_option, load, recipe_options


@click.command("compile")
@recipe_options
@click.option(
    "-o",
    "output_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where the YAML goes.",
)
@debug_option
def compile_command(
    recipe: str, overrides: tuple[str, ...], seed: int | None, output_file: Path
) -> None:
    """Write the pipeline with RECIPE as KFP's YAML."""
    from rlvr_pipelines.extras import PIPELINES, require

    loaded = load(recipe, overrides, seed)
    require(PIPELINES, "compiling")
    from rlvr_pipelines.compile import compile_pipeline

    compile_pipeline(loaded, output_file)
    click.echo(f"{output_file}: recipe {loaded.name}, hash {loaded.hash}", err=True)
