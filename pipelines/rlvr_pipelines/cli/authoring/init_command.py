"""`rlvr init`."""

from __future__ import annotations

from pathlib import Path

import click

from rlvr_pipelines.cli.options import debug_option

DEFAULT_MODEL = "embedded:smollm2-135m-instruct"


@click.command("init", short_help="Write a recipe for the rows in DATA.")
@click.argument("data")
@click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    metavar="NAME",
    help="The model to train: a directory, or a hub id with its commit, NAME@COMMIT.",
)
@click.option(
    "-o",
    "output_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The recipe to write.  [default: beside DATA]",
)
@debug_option
def init_command(data: str, model: str, output_file: Path | None) -> None:
    """Look at the rows in DATA and write a recipe for them.

    DATA is a file or a folder of rows, `s3://…` or `hub://owner/name@revision`. Each setting has
    the reason for it as a comment; what is not sure is listed. The recipe is planned and its
    rewards are checked before it is written.

    \b
    rlvr init rows.csv
    rlvr init hub://openai/gsm8k@COMMIT?config=main --model Qwen/Qwen2.5-0.5B@COMMIT -o mine.yaml
    """
    from rlvr_pipelines.pipeline.run_plan import measure
    from rlvr_trainer.drafting import default_path, draft_recipe, find_sources
    from rlvr_trainer.errors import ConfigError
    from rlvr_trainer.models.fit import check_local_model
    from rlvr_trainer.recipe.reader import load_recipe
    from rlvr_trainer.storage.atomic_files import writing

    path = (output_file or default_path(data)).absolute()
    if path.exists():
        raise ConfigError(f"{path} exists already; name another file with -o, or remove it")
    draft = draft_recipe(find_sources(data), model, path.parent)
    text = draft.yaml(f"Written by rlvr init for {data}.")
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            aside.write_text(text, "utf-8")
        recipe = load_recipe(aside)
        check_local_model(recipe)
        sizes = measure(recipe)
        aside.rename(path)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(aside), f"a recipe for {data}")) from None
    finally:
        aside.unlink(missing_ok=True)
    counts = ", ".join(f"{number:,} {name}" for name, number in sizes.num_rows.items())
    lines = [
        text,
        f"{path} is written: {counts} rows, {sizes.num_steps:,} steps of "
        f"{sizes.completions_per_step:,} completions.",
        *(f"warning: {warning}" for warning in sizes.reward_warnings),
        *(f"not sure: {doubt}" for doubt in draft.doubts),
        f"Next: rlvr plan {path}, rlvr reward check {path}, rlvr run {path}",
    ]
    click.echo("\n".join(lines))
