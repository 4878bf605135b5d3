"""`rlvr reward check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rlvr_pipelines.cli.options import (
    debug_option,
    load,
    output_option,
    print_json,
    recipe_options,
)

if TYPE_CHECKING:
    from rlvr_trainer.reward_check import RewardCheck


@click.group()
def reward() -> None:
    """Try the rewards of a recipe before a model learns from them."""


@reward.command("check", short_help="Try gold answers and attacks on the rewards of RECIPE.")
@recipe_options
@click.option(
    "--rows",
    "num_rows",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Training rows to attack; all are tried with their gold answers.",
)
@output_option
@debug_option
def check(
    recipe: str, overrides: tuple[str, ...], seed: int | None, num_rows: int, output: str
) -> None:
    """Print what the rewards of RECIPE give to gold answers and to attacks.

    A gold answer, laid out as in a worked example, should earn every reward. An attack is a
    completion that does not answer: a reward that it earns is what a model may learn. Exits with 2
    if an attack fools the judge, or earns as much as gold answers.

    \b
    rlvr reward check gsm8k
    rlvr reward check mine.yaml --rows 50 --output json
    """
    from rlvr_trainer.reward_check import check_recipe, raise_errors

    checked = check_recipe(load(recipe, overrides, seed), num_attacked=num_rows)
    if output == "json":
        print_json(checked.facts())
    else:
        click.echo(_describe(checked))
    raise_errors(checked)


def _describe(checked: RewardCheck) -> str:
    from rlvr_trainer.tables import text

    warnings = checked.messages("warning")
    lines = [
        f"{checked.num_gold:,} rows with their gold answers, {checked.num_attacked:,} attacked; "
        f"the most common answer is right for {checked.chance:.0%} of them.",
        "Share of the completions that gain by a reward, and its mean without the weight:",
        "",
        text(checked.table()),
        *([""] if warnings else []),
        *(f"warning: {warning}" for warning in warnings),
    ]
    if not checked.findings:
        lines += ["", "No attack earns what it should not."]
    return "\n".join(lines)
