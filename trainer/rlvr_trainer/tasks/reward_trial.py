"""Try rewards on gold completions before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.rewards import Case, Reward, Unverifiable
from rlvr_trainer.tasks.base import Row
from rlvr_trainer.tasks.prompt import PromptLayout

NUM_TRIED = 8
"""Rows on which rewards are tried before they are used."""


def try_rewards(rewards: Mapping[str, Reward], layout: PromptLayout, rows: Sequence[Row]) -> None:
    """Raise ConfigError for a reward that fails on half of the first gold completions or more."""
    tried = rows[:NUM_TRIED]
    for reward in rewards.values():
        failures: list[Unverifiable] = []
        for row in tried:
            try:
                reward.verify(Case(layout.completion(row), row.columns, layout.question(row)))
            except Unverifiable as error:
                failures.append(error)
        if failures and 2 * len(failures) >= len(tried):
            raise ConfigError(
                f"{failures[0]} with its gold completion, as on {len(failures)} of {len(tried)} "
                "rows tried; correct it: a reward takes (completion, row) and returns a number, or "
                "as in TRL takes (prompts, completions, **columns) and returns a list of them"
            ) from failures[0]
