"""The report of a sweep: one field, several values, a trained model for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr_trainer.errors import DataError
from rlvr_trainer.evaluation.comparison_tables import sweep_table
from rlvr_trainer.evaluation.outcome import headline_entry, percent
from rlvr_trainer.report.charts import Category, comparison
from rlvr_trainer.report.page import render

Json = Mapping[str, Any]


def render_sweep_report(runs: Sequence[Json]) -> str:
    """Compare runs of `field`, `value` and `evaluation` (None: it has none).

    Each run stands for its evaluation at the shots that its verdict is about. Raises DataError
    when there is no run.
    """
    if not runs:
        raise DataError("no run to compare; name at least one run directory")
    field = str(runs[0]["field"])
    found = [
        (str(run["value"]), headline_entry(run["evaluation"])) for run in runs if run["evaluation"]
    ]
    chart = (
        comparison(
            "sweep",
            f"Accuracy by {field}",
            field,
            [Category(value, entry["before"], entry["after"]) for value, entry in found],
            connect=all(_is_number(value) for value, _ in found),
        )
        if found
        else None
    )
    return render(
        "sweep.html",
        field=field,
        num_runs=len(runs),
        verdict=sweep_verdict(field, found),
        chart=chart,
        runs=sweep_table(runs, ("Before", "After", "Rows", "McNemar p")),
    )


def sweep_verdict(field: str, found: Sequence[tuple[str, Json]]) -> str:
    """Return one sentence: the best value, and whether its interval stands apart."""
    if not found:
        return f"No run over {field} has an evaluation yet."
    value, best = max(found, key=lambda item: item[1]["after"]["accuracy"])
    accuracy = percent(best["after"]["accuracy"])
    if len(found) == 1:
        return f"{accuracy} after training at {field} = {value}, the only run with an evaluation."
    near = [
        other
        for other, entry in found
        if entry is not best and entry["after"]["high"] >= best["after"]["low"]
    ]
    sentence = f"Highest accuracy after training: {accuracy} at {field} = {value}"
    if near:
        return f"{sentence}; its interval overlaps with that of {_listed(near)}."
    return f"{sentence}; its interval lies above all others."


def _listed(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
