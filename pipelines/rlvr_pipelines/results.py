"""The outcome of a run as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rlvr_trainer.evaluation import interval, p_value, percent

if TYPE_CHECKING:
    from rich.table import Table

WIDTH_WITHOUT_TERMINAL = 120


def print_evaluation(evaluation: Mapping[str, Any], stream: TextIO) -> None:
    """The table by shots and the verdict."""
    _print(evaluation_table(evaluation), stream)
    print(f"\n{evaluation['verdict']}", file=stream)


def evaluation_table(evaluation: Mapping[str, Any]) -> Table:
    """A row for each number of shots: accuracy with its interval, format, flexible, McNemar's p."""
    rows = [
        [
            shots,
            _accuracy(entry["before"]),
            _accuracy(entry["after"]),
            _change(entry, "format"),
            _change(entry, "flexible"),
            p_value(entry["mcnemar_p"]).removeprefix("= "),
        ]
        for shots, entry in evaluation["shots"].items()
    ]
    heads = ["shots", "accuracy before", "accuracy after", "format", "flexible", "McNemar p"]
    return _table(heads, rows)


def print_sweep(
    field: str, results: Sequence[tuple[str, Mapping[str, Any] | None]], stream: TextIO
) -> None:
    """One row for each value of a sweep, at the shots that its verdict is about.

    A run without an evaluation failed.
    """
    rows = []
    for value, evaluation in results:
        if evaluation is None:
            rows.append([value, "failed", "", "", ""])
            continue
        entry = evaluation["shots"][str(evaluation["headline_shots"])]
        rows.append(
            [
                value,
                _accuracy(entry["before"]),
                _accuracy(entry["after"]),
                _change(entry, "format"),
                p_value(entry["mcnemar_p"]).removeprefix("= "),
            ]
        )
    _print(
        _table([field, "accuracy before", "accuracy after", "format", "McNemar p"], rows),
        stream,
    )


def _accuracy(summary: Mapping[str, Any]) -> str:
    return f"{percent(summary['accuracy'])} ({interval(summary)})"


def _change(entry: Mapping[str, Any], name: str) -> str:
    return f"{percent(entry['before'][name])} → {percent(entry['after'][name])}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption="In brackets: 95 % intervals.",
        caption_justify="left",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _print(table: Table, stream: TextIO) -> None:
    from rich.console import Console

    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    Console(file=stream, width=width, highlight=False).print(table)
