"""`rlvr plan`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlvr_pipelines.cli.options import (
    debug_option,
    default_run_dir,
    load,
    output_option,
    print_json,
    recipe_options,
    run_dir_option,
)

if TYPE_CHECKING:
    from rlvr_pipelines.plan import Plan, Sizes


@click.command("plan")
@recipe_options
@run_dir_option
@output_option
@debug_option
def plan_command(
    recipe: str, overrides: tuple[str, ...], seed: int | None, run_dir: Path | None, output: str
) -> None:
    """Show what a run of RECIPE would do, without doing it."""
    from rlvr_pipelines.plan import plan

    loaded = load(recipe, overrides, seed)
    planned = plan(loaded, run_dir or default_run_dir(loaded))
    if output == "json":
        print_json(planned.facts())
    else:
        click.echo(_describe(planned))


def _describe(plan: Plan) -> str:
    import yaml

    recipe = yaml.safe_dump(
        plan.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=96
    )
    steps = list(plan.facts()["steps"])
    sizes = _sizes(plan.sizes) if plan.sizes else ["rows    elsewhere; counted when they are read"]
    return "\n".join(
        [
            recipe.rstrip(),
            "",
            f"recipe  {plan.recipe.name}, hash {plan.recipe.hash}",
            f"runs    {', '.join(steps)}",
            f"into    {plan.run_dir}",
            *sizes,
            f"job     {plan.job.name}: {shlex.join(plan.process.argv)}",
        ]
    )


def _sizes(sizes: Sizes) -> list[str]:
    rows = ", ".join(f"{count:,} {name}" for name, count in sizes.num_rows.items())
    return [
        f"rows    {rows}",
        f"train   {sizes.num_steps:,} steps of {sizes.completions_per_step:,} completions "
        f"({sizes.questions_per_step:,} questions)",
        f"tokens  at most {sizes.tokens_per_step:,} a step (about: header {sizes.header_tokens:,}, "
        f"question {sizes.question_tokens:,})",
        f"test    {sizes.num_evaluated:,} completions before and as many after",
    ]
