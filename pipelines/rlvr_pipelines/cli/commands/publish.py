"""`rlvr publish`."""

from __future__ import annotations

from pathlib import Path

import click

from rlvr_pipelines.cli.options import debug_option, run_dir_argument


@click.command(short_help="Write a trained adapter or merged model, with a card.")
@run_dir_argument
@click.option("--merge", is_flag=True, help="Merge the adapter into the model.")
@click.option(
    "-o",
    "output_dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where the model goes.",
)
@debug_option
def publish(run_dir: Path, merge: bool, output_dir: Path) -> None:
    """Write what RUN_DIR trained as an adapter, or a merged model, with a card."""
    from rlvr_pipelines.extras import TRAIN, require

    require(TRAIN, "publishing")
    from rlvr_trainer.export import publish as publish_run
    from rlvr_trainer.run_dir.layout import read_recipe

    read_recipe(run_dir)  # so that a mistyped path is told before anything is loaded
    publish_run(run_dir, output_dir, merge=merge)
    click.echo(f"Model: {output_dir}")
