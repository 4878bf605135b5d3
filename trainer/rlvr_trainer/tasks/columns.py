"""Rename the columns of raw rows to the names that a task reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.tasks.base import UnusableRow, column_names

_ABSENT = object()


def rename_columns(raw: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the row with each value of `columns` (name → column) under its name.

    A column is a name of the row, or fields and list positions joined by dots (`answers.text.0`). A
    renamed column is gone; a nested one stays in its own. Raises UnusableRow for a missing column.
    """
    if not columns:
        return raw
    values = {}
    for name, column in columns.items():
        values[name] = _value_at(raw, column)
        if values[name] is _ABSENT:
            there = list(column_names(raw))
            raise UnusableRow(
                "malformed",
                f"no column {column!r}, which data.columns.{name} names"
                f"{did_you_mean(column, there)}, among {', '.join(map(str, raw)) or 'none'}",
            )
    others = {name: value for name, value in raw.items() if name not in columns.values()}
    return {**others, **values}


def _value_at(raw: Mapping[str, Any], column: str) -> Any:
    """Return a column's value, or a marker of its absence."""
    if column in raw:
        return raw[column]
    value: Any = raw
    for part in column.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else _ABSENT
        else:
            return _ABSENT
    return value
