"""Tables that compare models before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlvr_trainer.evaluation.outcome import headline_entry, interval, p_value, percent
from rlvr_trainer.tables import Cell, Table


def results_table(
    name: str,
    entries: Iterable[tuple[object, Mapping[str, Any] | None]],
    heads: Sequence[str] = (),
) -> Table:
    """Compare the models before and after training, one row for each named entry.

    An entry is a value of `evaluation["shots"]`, or None for a row of dashes. `heads` selects
    columns; the default is all that every entry has.
    """
    rows = [(label, entry and _results(entry)) for label, entry in entries]
    whole = [results for _, results in rows if results]
    heads = heads or [
        head for head in (whole[0] if whole else ()) if all(head in results for results in whole)
    ]
    return Table(
        [name, *heads],
        [
            [label, *((results[head] if results else "–") for head in heads)]
            for label, results in rows
        ],
    )


def shots_table(evaluation: Mapping[str, Any], heads: Sequence[str] = ()) -> Table:
    """Compare the models at each number of shots of an evaluation, fewest first."""
    entries = sorted(evaluation["shots"].items(), key=lambda item: int(item[0]))
    return results_table("Shots", entries, heads)


def sweep_table(runs: Sequence[Mapping[str, Any]], heads: Sequence[str] = ()) -> Table:
    """Compare the runs of a sweep, each at the shots of its verdict."""
    entries = [
        (str(run["value"]), headline_entry(run["evaluation"]))
        if run["evaluation"]
        else (Cell(str(run["value"]), "no evaluation"), None)
        for run in runs
    ]
    return results_table(str(runs[0]["field"]), entries, heads)


def _results(entry: Mapping[str, Any]) -> dict[str, Cell]:
    before, after = entry["before"], entry["after"]
    drawn = before.get("pass_at_k", {}), after.get("pass_at_k", {})

    def change(key: str, one: Mapping[str, Any] = before, two: Mapping[str, Any] = after) -> Cell:
        return Cell(f"{percent(one[key])} → {percent(two[key])}")

    return {
        "Rows": Cell(f"{entry['num_samples']:,}"),
        "Before": Cell(percent(before["accuracy"]), interval(before)),
        "After": Cell(percent(after["accuracy"]), interval(after)),
        "McNemar p": Cell(p_value(entry["mcnemar_p"]).removeprefix("= ")),
        "Gained": Cell(f"{entry['gained']:,}"),
        "Lost": Cell(f"{entry['lost']:,}"),
        "Format": change("format"),
        "Flexible": change("flexible"),
        "Tokens": Cell(f"{before['mean_length']:.0f} → {after['mean_length']:.0f}"),
    } | {f"pass@{k}": change(k, *drawn) for k in sorted(drawn[0].keys() & drawn[1].keys(), key=int)}
