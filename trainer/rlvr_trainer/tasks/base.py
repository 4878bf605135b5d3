"""Define rows and the interface of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

from rlvr_trainer.errors import ConfigError

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

Split = Literal["train", "test"]


class Message(TypedDict):
    """A message of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """A question with an answer that can be verified."""

    id: str
    """Split and index in the source, such as `train-12`."""
    question: str
    answer: str
    """The gold answer as a verifier reads it: `1234`, not `$1,234`."""
    solution: str = ""
    """Worked text without the line that gives the answer; may be empty."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the source."""
    messages: Sequence[Message] = ()
    """The row's own chat, whose last message is the question; empty for a row without one."""

    @property
    def columns(self) -> dict[str, Any]:
        """All columns by name, as templates and rewards see them."""
        own: dict[str, Any] = {"id": self.id, "question": self.question}
        if self.messages:
            own["messages"] = list(self.messages)
        return {**self.extra, **own, "answer": self.answer, "solution": self.solution}


class UnusableRow(Exception):
    """A row that cannot be trained on; it is quarantined under `reason`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


SYNONYMS = {
    "question": "problem prompt query input instruction messages conversations text",
    "answer": "answers final_answer target label gold expected_answer ground_truth output response "
    "completion result",
    "solution": "rationale reasoning explanation cot",
}
"""Names of the columns in other data sets."""
ROW_COLUMNS = ("question", "answer", "solution")


def missing_column(column: str, raw: Mapping[str, Any]) -> str:
    """Return the error for a missing column, with the setting that names the right ones."""
    names = [str(name) for name in raw]
    meant = {name: similar_columns(name, raw) for name in ("question", "answer", column)}
    settings = [f"{name}: {similar[0]}" for name, similar in meant.items()
                if similar and name not in names]  # fmt: skip
    hint = f"; write data.columns: {{{', '.join(settings)}}}" if meant[column] else ""
    if len(meant[column]) > 1:
        hint += f" (or {', '.join(meant[column][1:])})"
    return f"no column {column!r} among {', '.join(names) or 'none'}{hint}"


def similar_columns(column: str, raw: Mapping[str, Any]) -> list[str]:
    """Return the columns and nested fields of a row that may hold what `column` names."""
    synonyms = [column, *SYNONYMS.get(column, "").split()]
    similar = [
        name
        for name in column_names(raw)
        if name.rpartition(".")[2].strip().lower() in synonyms and name not in ROW_COLUMNS
    ]
    names = [name for name in map(str, raw) if name not in ROW_COLUMNS]
    similar = similar or get_close_matches(column, names)
    return similar or (["solution"] if column == "answer" and "solution" in raw else [])


def column_names(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield the columns of a row, and the fields of those that have fields (`a.b`)."""
    for name, value in raw.items():
        yield str(name)
        if isinstance(value, Mapping):
            yield from (f"{name}.{field}" for field in value)


class Task:
    """A source of rows, and the parser of raw rows."""

    name: ClassVar[str] = ""

    def default_rows(self, split: Split, recipe: Recipe) -> Iterator[Mapping[str, Any]]:
        """Yield raw rows if the recipe names no data. Raises ConfigError if the task has none."""
        raise ConfigError(
            f"task {recipe.task!r} has no rows of its own; "
            f"set data.{split} to a JSONL or Parquet file"
        )

    def parse(self, raw: Mapping[str, Any], id: str) -> Row:
        """Return the row of a raw record. Raises UnusableRow."""
        raise NotImplementedError
