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


def missing_column(column: str, raw: Mapping[str, Any]) -> str:
    """Return the error for a missing column, with the columns that may be meant."""
    names = [str(name) for name in raw]
    synonyms = [column, *SYNONYMS.get(column, "").split()]
    similar = [name for name in names if name.strip().lower() in synonyms]
    similar = similar or get_close_matches(column, names)
    hint = f" (is it {' or '.join(map(repr, similar))}? rename it)" if similar else ""
    return f"no column {column!r}{hint} among {', '.join(names) or 'none'}"


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
