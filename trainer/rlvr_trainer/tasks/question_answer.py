"""Parse rows with a `question`, an `answer` and perhaps a `solution`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from rlvr_trainer.rewards import parse_number
from rlvr_trainer.tasks.base import Message, Row, Task, UnusableRow, missing_column
from rlvr_trainer.tasks.chat_rows import chat_column, read_chat

FINAL_ANSWER = "####"
"""Separator of worked text and final answer in an answer column, as in GSM8K."""


class QuestionAnswer(Task):
    """Rows `{"question": …, "answer": 42}`; `"worked text #### 42"` is an answer with a solution.

    A chat (`messages`, or `prompt` as a list) asks by its last user's message.
    Answers in words stay: preparation quarantines them where only numbers can be judged. A list
    holds several gold answers: the first is the answer, all are the column `answers`. A mapping,
    and a list that holds one, becomes JSON.
    """

    name: ClassVar[str] = "question-answer"

    def parse(self, raw: Mapping[str, Any], id: str) -> Row:
        """Return the row of a record. Raises UnusableRow: malformed, empty, answer-not-a-number.

        The last is for numbers that cannot be spelled out.
        """
        messages: list[Message] = []
        if chat := chat_column(raw):
            raw, messages = read_chat(raw, chat)
        for column in ("question", "answer"):
            if column not in raw:
                raise UnusableRow("malformed", missing_column(column, raw))
        question, answer, solution = raw["question"], raw["answer"], raw.get("solution")
        several: dict[str, Any] = {}
        if isinstance(answer, list) and answer and not any(map(_is_nested, answer)):
            several = {"answers": [split_answer(one)[1] for one in answer]}
            answer = answer[0]
        if not isinstance(question, str) or not isinstance(solution, str | None):
            raise UnusableRow("malformed", "question and solution must be text")
        if not question.strip():
            raise UnusableRow("empty", "the question is blank")
        worked, final = split_answer(answer)
        if not final:
            raise UnusableRow("empty", "the answer is blank")
        solution = (worked if solution is None else solution).strip()
        texts = [question, final, solution, *(message["content"] for message in messages)]
        if not encodable("".join(texts)):
            raise UnusableRow("malformed", "the text has half of a surrogate pair")
        extra = several | {
            str(name): value
            for name, value in raw.items()
            if name not in ("question", "answer", "solution")
        }
        return Row(id, question.strip(), _in_digits(final), solution, extra, messages)


def split_answer(answer: Any) -> tuple[str, str]:
    """Return (worked text, final answer) of an answer column. Raises UnusableRow."""
    match answer:
        case bool():
            return "", str(answer).lower()  # as JSON has it
        case int() | float() | Decimal():
            spelled = spell_out(answer)
            if parse_number(spelled) is None:
                raise UnusableRow("answer-not-a-number", f"{spelled[:40]!r} is not a number")
            return "", spelled
        case str():
            worked, _, final = answer.rpartition(FINAL_ANSWER)
            return worked.strip(), final.strip()
        case dict() | list():
            return "", json.dumps(answer, ensure_ascii=False, default=str) if answer else ""
        case None:
            return "", ""
        case _:
            raise UnusableRow("malformed", f"the answer is a {type(answer).__name__}")


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _in_digits(answer: str) -> str:
    """Return `$1,234` as `1234`, and text with letters, which may be a date, unchanged."""
    number = None if any(map(str.isalpha, answer)) else parse_number(answer)
    return answer if number is None else f"{number:f}"


def spell_out(number: int | float | Decimal) -> str:
    """Return a number without an exponent, or other text if it is too large or not finite."""
    if isinstance(number, int):
        return str(number) if number.bit_length() < 128 else "integer of over 38 digits"
    value = Decimal(repr(number)) if isinstance(number, float) else number
    spellable = value.is_finite() and abs(value.adjusted()) < 64
    return f"{value:f}" if spellable else str(value)


def encodable(text: str) -> bool:
    """Return True if the text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
