"""`rlvr publish`."""

from __future__ import annotations

from pathlib import Path

import click

from rlvr_pipelines.cli.options import debug_option, run_dir_argument


@click.command("publish", short_help="Write a trained adapter or merged model with a card.")
@run_dir_argument
@click.option("--merge", is_flag=True, help="Merge the adapter into the model.")
@click.option(
    "-o",
    "output_dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="The directory to write.",
)
@debug_option
def publish_command(run_dir: Path, merge: bool, output_dir: Path) -> None:
    """Write the adapter of RUN_DIR, or the merged model, with a card.

    \b
    rlvr publish runs/arithmetic --merge -o model
    """
    from rlvr_pipelines.extras import TRAIN, require

    require(TRAIN, "publishing")
    from rlvr_trainer.publishing import publish
    from rlvr_trainer.run_dir.layout import read_recipe

    read_recipe(run_dir)  # fails for a mistyped path before a model is loaded
    publish(run_dir, output_dir, merge=merge)
    click.echo(f"Model: {output_dir}")
