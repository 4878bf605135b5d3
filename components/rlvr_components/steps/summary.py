"""The result of a run as Markdown for the UI: the verdict, the numbers, how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from rlvr_trainer import __version__
from rlvr_trainer.evaluation.comparison_tables import shots_table
from rlvr_trainer.evaluation.outcome import headline_entry, is_significant
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.tables import markdown


def is_better(evaluation: Mapping[str, Any]) -> bool:
    """Return true if accuracy rose by more than chance would explain."""
    entry = headline_entry(evaluation)
    rose: bool = entry["after"]["accuracy"] > entry["before"]["accuracy"]
    return rose and is_significant(entry["mcnemar_p"])


def summarise(recipe: Recipe, evaluation: Mapping[str, Any]) -> str:
    """Write the Markdown."""
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=88)
    return (
        f"# {evaluation['verdict']}\n\n{recipe.description}\n\n"
        f"{markdown(shots_table(evaluation))}\n\n"
        "In brackets: 95 % intervals. They say how far the choice of test rows can move a number; "
        "another seed can move it further.\n\n"
        "## To repeat it\n\n"
        f"Save as `{recipe.name}.yaml` and run `rlvr run {recipe.name}.yaml` "
        f"(rlvr {__version__}, recipe {recipe.hash}):\n\n```yaml\n{text}```\n"
    )
