"""Compare both evaluations; write the report, and a summary as Markdown for the UI."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlvr_trainer import __version__, api
from rlvr_trainer.evaluation.comparison_tables import shots_table
from rlvr_trainer.evaluation.outcome import Evaluation, headline_entry
from rlvr_trainer.evaluation.statistics import is_significant
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import EVALUATION, REPORT, SAMPLES
from rlvr_trainer.tables import markdown


def compare(
    recipe: Recipe,
    *,
    data: Path,
    before: Path,
    after: Path,
    history: Path,
    evaluation: Path,
    samples: Path,
    report: Path,
    summary: Path,
) -> Evaluation:
    """Compare `before` with `after`, write the last four files, return the comparison.

    Raises ConfigError, DataError.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        comparison = api.compare(recipe, data, before, after, history, folder)
        shutil.copyfile(folder / EVALUATION, evaluation)
        shutil.copyfile(folder / SAMPLES, samples)
        shutil.copyfile(folder / REPORT, report)
    summary.write_text(summarise(recipe, comparison), encoding="utf-8")
    return comparison


def is_better(evaluation: Mapping[str, Any]) -> bool:
    """Return True if accuracy rose significantly."""
    entry = headline_entry(evaluation)
    rose: bool = entry["after"]["accuracy"] > entry["before"]["accuracy"]
    return rose and is_significant(entry["mcnemar_p"])


def headline_numbers(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the accuracies at the trained shots, and the p-value of their difference."""
    entry = headline_entry(evaluation)
    return {
        "accuracy_before": entry["before"]["accuracy"],
        "accuracy_after": entry["after"]["accuracy"],
        "mcnemar_p": entry["mcnemar_p"],
    }


def summarise(recipe: Recipe, evaluation: Mapping[str, Any]) -> str:
    """Return the summary as Markdown."""
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=88)
    return (
        f"# {evaluation['verdict']}\n\n{recipe.description}\n\n"
        f"{markdown(shots_table(evaluation))}\n\n"
        "In brackets: 95 % intervals. They cover the choice of test rows; another seed can "
        "change the numbers further.\n\n"
        "## Repeat it\n\n"
        f"Save as `{recipe.name}.yaml` and run `rlvr run {recipe.name}.yaml` "
        f"(rlvr {__version__}, recipe {recipe.hash}):\n\n```yaml\n{text}```\n"
    )
