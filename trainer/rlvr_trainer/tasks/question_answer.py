"""Rows with a `question` and a numeric `answer`; a `solution` column if there is one."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from rlvr_trainer.rewards import normalise_answer
from rlvr_trainer.tasks.base import Row, Task, UnusableRow, missing_column

FINAL_ANSWER = "####"
"""In an answer column, separates worked text from the final answer, as GSM8K has it."""


class QuestionAnswer(Task):
    """`{"question": …, "answer": 42}`; `"worked text #### 42"` is an answer with its solution."""

    name: ClassVar[str] = "question-answer"

    def parse(self, raw: Mapping[str, Any], id: str) -> Row:
        """The row of one record. Raises UnusableRow: malformed, empty or answer-not-a-number."""
        for column in ("question", "answer"):
            if column not in raw:
                raise UnusableRow("malformed", missing_column(column, raw))
        question, answer, solution = raw["question"], raw["answer"], raw.get("solution")
        if not isinstance(question, str) or not isinstance(solution, str | None):
            raise UnusableRow("malformed", "question and solution must be text")
        if not question.strip():
            raise UnusableRow("empty", "the question is blank")
        worked, final = split_answer(answer)
        if not final:
            raise UnusableRow("empty", "the answer is blank")
        try:
            gold = normalise_answer(final)
        except ValueError as error:
            raise UnusableRow("answer-not-a-number", str(error)) from None
        solution = (worked if solution is None else solution).strip()
        if not encodable(question + solution):
            raise UnusableRow("malformed", "the text has half of a surrogate pair")
        extra = {
            str(name): value
            for name, value in raw.items()
            if name not in ("question", "answer", "solution")
        }
        return Row(id, question.strip(), gold, solution, extra)


def split_answer(answer: Any) -> tuple[str, str]:
    """(worked text, final answer) of an answer column. Raises UnusableRow."""
    match answer:
        case bool():
            raise UnusableRow("answer-not-a-number", f"the answer is {answer}")
        case int() | float() | Decimal():
            return "", spell_out(answer)
        case str():
            worked, _, final = answer.rpartition(FINAL_ANSWER)
            return worked.strip(), final.strip()
        case None:
            return "", ""
        case _:
            raise UnusableRow("malformed", f"the answer is a {type(answer).__name__}")


def spell_out(number: int | float | Decimal) -> str:
    """A number without an exponent; text that is no number when it is too large or not finite."""
    if isinstance(number, int):
        return str(number) if number.bit_length() < 128 else "integer of over 38 digits"
    value = Decimal(repr(number)) if isinstance(number, float) else number
    spellable = value.is_finite() and abs(value.adjusted()) < 64
    return f"{value:f}" if spellable else str(value)


def encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
