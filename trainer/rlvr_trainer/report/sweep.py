"""The report of a sweep: one field, several values, a trained model for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr_trainer.errors import DataError
from rlvr_trainer.evaluation import count, interval, p_value, percent
from rlvr_trainer.report.charts import Category, comparison
from rlvr_trainer.report.markup import Child, Markup, element
from rlvr_trainer.report.page import legend, page, section, table
from rlvr_trainer.report.run import headline_shots

Json = Mapping[str, Any]


def render_sweep_report(runs: Sequence[Json]) -> str:
    """Compare runs of `field`, `value`, `evaluation` (None: it has none) and, if given, `name`.

    Each run stands for its evaluation at the shots that its verdict is about. Raises DataError
    when there is no run.
    """
    if not runs:
        raise DataError("no run to compare; name at least one run directory")
    field = str(runs[0]["field"])
    found = [(str(run["value"]), entry) for run in runs if (entry := _entry(run)) is not None]
    num_runs = count(len(runs), "run")
    sentence = sweep_verdict(field, found)
    header = [
        element("p", element("b", "Sweep"), f" · {num_runs} over {field}", class_="eyebrow"),
        element("h1", sentence),
    ]
    footer = (
        "One run with one seed for each value. An interval says how far the choice of test rows "
        "can move a number; another seed can move it further."
    )
    main = [_chart(field, found) if found else None, _table(field, runs)]
    return page(f"Sweep over {field}", header, main, footer)


def sweep_verdict(field: str, found: Sequence[tuple[str, Json]]) -> str:
    """One sentence: which value came first, and whether its interval stands apart."""
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


def _entry(run: Json) -> Json | None:
    evaluation = run.get("evaluation")
    if not evaluation:
        return None
    entry: Json = evaluation["shots"][headline_shots(evaluation, {})]
    return entry


def _chart(field: str, found: Sequence[tuple[str, Json]]) -> Markup:
    chart = comparison(
        "sweep",
        f"Accuracy by {field}",
        field,
        [Category(value, entry["before"], entry["after"]) for value, entry in found],
        connect=all(map(_is_number, (value for value, _ in found))),
    )
    return section(
        "Accuracy",
        legend(),
        element("figure", element("div", chart, class_="gutter"), class_="wide"),
        note="Lines are 95 % intervals.",
    )


def _table(field: str, runs: Sequence[Json]) -> Markup:
    head = [field, "Before", "After", "Rows", "p"]
    rows = [[_named(run), *_cells(_entry(run))] for run in runs]
    return section("Runs", table("Results of each run", head, rows, classes={2: "after"}))


def _named(run: Json) -> Child:
    found = None if run.get("evaluation") else "no evaluation"
    explanations = [str(text) for text in (run.get("name"), found) if text]
    below = [element("span", text, class_="sub") for text in explanations]
    return element("span", str(run["value"]), below, class_="named")


def _cells(entry: Json | None) -> list[Child]:
    if entry is None:
        return ["–"] * 4
    before, after = entry["before"], entry["after"]
    return [
        *(
            [percent(summary["accuracy"]), element("span", interval(summary), class_="sub")]
            for summary in (before, after)
        ),
        f"{entry['num_samples']:,}",
        p_value(entry["mcnemar_p"]).removeprefix("= "),
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
