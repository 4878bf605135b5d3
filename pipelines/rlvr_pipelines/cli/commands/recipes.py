"""`rlvr recipes`."""

from __future__ import annotations

import click

from rlvr_pipelines.cli.options import debug_option, load, output_option, print_json


@click.command()
@click.option("--schema", is_flag=True, help="Print the JSON schema of a recipe.")
@click.option("--fields", is_flag=True, help="Print the fields of a recipe as Markdown.")
@output_option
@debug_option
def recipes(schema: bool, fields: bool, output: str) -> None:
    """List the shipped recipes."""
    from rlvr_trainer.recipe.json_schema import fields_page, recipe_schema
    from rlvr_trainer.recipe.reader import shipped_recipes
    from rlvr_trainer.tables import columns

    if schema:
        print_json(recipe_schema())
        return
    if fields:
        click.echo(fields_page(), nl=False)
        return
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
    click.echo("\n".join(columns((name, recipe.description) for name, recipe in loaded.items())))
