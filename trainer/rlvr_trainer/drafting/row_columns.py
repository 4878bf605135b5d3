"""Guess which columns hold the question, the answer and the worked text, and the kind of answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.rewards import parse_number
from rlvr_trainer.tasks import Row, UnusableRow
from rlvr_trainer.tasks.base import similar_columns
from rlvr_trainer.tasks.chat_rows import chat_column, read_chat
from rlvr_trainer.tasks.columns import rename_columns
from rlvr_trainer.tasks.question_answer import QuestionAnswer

MOST = 0.9
"""Share of the rows that have what a column or an answer is taken for."""
MAX_ANSWER_CHARACTERS = 200
OPTION_COLUMNS = ("choices", "options")


@dataclass(frozen=True)
class Columns:
    """Columns of the rows by the names that a task reads, and what else they might be."""

    renamed: Mapping[str, str]
    doubts: Sequence[str]


def guess_columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """Return the columns of question, answer and worked text. Raises ConfigError for none."""
    renamed: dict[str, str] = {}
    doubts: list[str] = []
    rows = [_without_chat(raw) for raw in rows]
    for name, fits in (("question", _is_question), ("answer", _is_answer)):
        if name in rows[0]:
            continue
        similar = similar_columns(name, rows[0])
        fitting = [column for column in similar if _share(rows, column, fits) >= MOST]
        if not fitting:
            raise ConfigError(
                f"no column holds the {name} among {', '.join(map(str, rows[0]))}"
                + (f" ({similar[0]} is not text)" if similar else "")
                + f"; write a recipe with data.columns: {{{name}: …}}, or name the column {name}"
            )
        renamed[name] = fitting[0]
        if len(fitting) > 1:
            doubts.append(f"{', '.join(fitting[1:])} may be the {name} too")
    worked = [c for c in similar_columns("solution", rows[0]) if c not in renamed.values()]
    if "solution" not in rows[0] and worked and _share(rows, worked[0], _is_question) >= MOST:
        renamed["solution"] = worked[0]
    return Columns(renamed, doubts)


def parsed_rows(rows: Sequence[Mapping[str, Any]], renamed: Mapping[str, str]) -> list[Row]:
    """Return the rows as the task `question-answer` reads them, without unusable ones."""
    task, parsed = QuestionAnswer(), []
    for index, raw in enumerate(rows):
        try:
            parsed.append(task.parse(rename_columns(raw, renamed), f"train-{index}"))
        except UnusableRow:
            continue
    return parsed


def answer_kind(rows: Sequence[Row]) -> str:
    """Return the verifier for the answers of rows; empty if none is for such answers."""
    for kind, fits in KINDS.items():
        if sum(map(fits, rows)) >= MOST * len(rows):
            return kind
    return ""


KINDS: Mapping[str, Callable[[Row], bool]] = {
    "number": lambda row: parse_number(row.answer) is not None,
    "choice": lambda row: (
        bool(re.fullmatch(r"\(?[A-J]\)?\.?", row.answer))
        or any(column in row.extra for column in OPTION_COLUMNS)
    ),
    "math": lambda row: bool(re.search(r"\\[a-zA-Z]|[\^=]|^-?\d+/\d+$", row.answer)),
    "text": lambda row: len(row.answer) <= MAX_ANSWER_CHARACTERS,
}
"""Verifier → True for an answer that looks like one for it; the first that fits most rows."""


def _without_chat(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row with the question of its chat as a column."""
    chat = chat_column(raw)
    try:
        return read_chat(raw, chat)[0] if chat else raw
    except UnusableRow:
        return raw


def _is_question(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_answer(value: Any) -> bool:
    return _is_question(value) or isinstance(value, int | float)


def _share(rows: Sequence[Mapping[str, Any]], column: str, fits: Callable[[Any], bool]) -> float:
    """Return the share of the rows whose column holds such a value."""
    num_fitting = 0
    for raw in rows:
        try:
            num_fitting += fits(rename_columns(raw, {"value": column})["value"])
        except UnusableRow:
            continue
    return num_fitting / len(rows)
