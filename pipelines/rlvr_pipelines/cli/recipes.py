"""`rlvr recipes`."""

from __future__ import annotations

import click

from rlvr_pipelines.cli.options import debug_option, load, output_option, print_json


@click.command()
@output_option
@debug_option
def recipes(output: str) -> None:
    """List the recipes that are shipped."""
    from rlvr_trainer.recipe_file import shipped_recipes

    paths = shipped_recipes()
    loaded = {name: load(name, (), None) for name in paths}
    if output == "json":
        print_json(
            [
                {
                    "name": name,
                    "description": recipe.description,
                    "task": recipe.task,
                    "model": recipe.model.name,
                    "hash": recipe.hash,
                    "path": str(paths[name]),
                }
                for name, recipe in loaded.items()
            ]
        )
        return
    width = max(map(len, loaded))
    for name, recipe in loaded.items():
        click.echo(f"{name:<{width}}  {recipe.description}")
