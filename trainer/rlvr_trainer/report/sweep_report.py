"""The report of a sweep: a trained model for each of several values of one field."""

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
    """Compare runs with the keys `field`, `value` and `evaluation`, which may be None.

    Each run is compared at the shots of its verdict. Raises DataError without a run.
    """
    if not runs:
        raise DataError("there is nothing to compare; name at least one run directory")
    field = str(runs[0]["field"])
    evaluated = [
        (str(run["value"]), headline_entry(run["evaluation"])) for run in runs if run["evaluation"]
    ]
    chart = (
        comparison(
            "sweep",
            f"Accuracy by {field}",
            field,
            [Category(value, entry["before"], entry["after"]) for value, entry in evaluated],
            connect=all(_is_number(value) for value, _ in evaluated),
        )
        if evaluated
        else None
    )
    return render(
        "sweep.html",
        field=field,
        num_runs=len(runs),
        verdict=sweep_verdict(field, evaluated),
        chart=chart,
        runs=sweep_table(runs, ("Before", "After", "Rows", "McNemar p")),
    )


def sweep_verdict(field: str, evaluated: Sequence[tuple[str, Json]]) -> str:
    """Return a sentence on the best value and the intervals that overlap with its own."""
    if not evaluated:
        return f"No run over {field} has an evaluation yet."
    value, best = max(evaluated, key=lambda item: item[1]["after"]["accuracy"])
    accuracy = percent(best["after"]["accuracy"])
    if len(evaluated) == 1:
        return f"{accuracy} after training at {field} = {value}, the only run with an evaluation."
    near = [
        other
        for other, entry in evaluated
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
