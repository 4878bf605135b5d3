"""Check the rewards on the rows of a recipe, before a model is loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rlvr_trainer.data import load_exemplars, load_rows, prepare
from rlvr_trainer.errors import ConfigError, RLVRError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.reward_check.check import NUM_ATTACKED, RewardCheck, check_rewards
from rlvr_trainer.rewards import build_judge, build_rewards
from rlvr_trainer.tasks.chat_template import Outline
from rlvr_trainer.tasks.prompt import PromptLayout

TIME_LIMIT_S = 10.0
"""Time that a check takes where it is not the purpose, as before a run."""


def check_recipe(recipe: Recipe, *, num_attacked: int = NUM_ATTACKED) -> RewardCheck:
    """Prepare the rows in a temporary folder and check the rewards on the training rows.

    Raises ConfigError, DataError.
    """
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder, "data")
        prepare(recipe, data_dir, count_tokens=lambda text: 0, template=Outline())
        return _check(recipe, data_dir, num_attacked, None)


def reward_remarks(recipe: Recipe) -> list[str]:
    """Read the rows, check the rewards on them for a few seconds, and return the warnings.

    None if the rows or the rewards' code cannot be read here: the steps that need them report it.
    Raises ConfigError for a judge that an attack fools, or that refuses gold answers.
    """
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder, "data")
        try:
            prepare(recipe, data_dir, count_tokens=lambda text: 0, template=Outline())
        except RLVRError:
            return []
        return check_prepared(recipe, data_dir)


def check_prepared(recipe: Recipe, data_dir: Path) -> list[str]:
    """Return the warnings as `reward_remarks` on rows that are prepared. Raises ConfigError."""
    try:
        build_rewards(recipe)
        build_judge(recipe)
    except ConfigError:
        return []
    check = _check(recipe, data_dir, NUM_ATTACKED, TIME_LIMIT_S)
    raise_errors(check)
    return check.messages("warning")


def raise_errors(check: RewardCheck) -> None:
    """Raise ConfigError with the errors of a check, if there are any."""
    errors = check.messages("error")
    if errors:
        more = "".join(f"\n  {error}" for error in errors[1:])
        raise ConfigError(f"{errors[0]}{more}")


def _check(
    recipe: Recipe, data_dir: Path, num_attacked: int, time_limit_s: float | None
) -> RewardCheck:
    layout = PromptLayout(recipe.prompt, load_exemplars(data_dir), Outline())
    rows = {row.id: row for row in load_rows(data_dir, "train")}  # a selected row may be repeated
    return check_rewards(
        recipe, layout, list(rows.values()), num_attacked=num_attacked, time_limit_s=time_limit_s
    )
