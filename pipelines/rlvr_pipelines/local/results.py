"""Print the outcome of a run or sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rlvr_trainer.evaluation.comparison_tables import shots_table, sweep_table
from rlvr_trainer.tables import Table, text

HEADS = ("Before", "After", "Format", "Flexible", "McNemar p")


def print_evaluation(evaluation: Mapping[str, Any], stream: TextIO) -> None:
    """Print a row for each number of shots, and the verdict."""
    _print(shots_table(evaluation, HEADS), stream)
    print(f"\n{evaluation['verdict']}", file=stream)


def print_sweep(runs: Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """Print a row for each value of a sweep, at the number of shots of its verdict."""
    _print(sweep_table(runs, HEADS), stream)


def _print(table: Table, stream: TextIO) -> None:
    print(f"{text(table)}\n\nIn brackets: 95 % intervals.", file=stream)
