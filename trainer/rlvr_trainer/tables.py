"""Render tables as lines for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Cell(NamedTuple):
    """A value with an interval or a remark."""

    text: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.detail})" if self.detail else self.text


@dataclass(frozen=True)
class Table:
    """Rows below their heads; the first cell of a row names it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


def columns(rows: Iterable[Sequence[object]]) -> list[str]:
    """Render rows as lines with aligned columns, as kubectl does."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def text(table: Table) -> str:
    """Render the table for a terminal."""
    return "\n".join(columns([table.heads, *table.rows]))


def markdown(table: Table, align: str = "---:") -> str:
    """Render the table as Markdown; `align` is the rule below all heads but the first."""
    rules = ["---", *[align] * (len(table.heads) - 1)]
    rows = [table.heads, rules, *([_escaped(str(cell)) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escaped(cell: str) -> str:
    return " ".join(cell.replace("|", r"\|").split())
