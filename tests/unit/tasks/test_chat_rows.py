"""Read rows that bring their own messages."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr_trainer.tasks import QuestionAnswer, Row, UnusableRow

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello"}
YES = {"role": "assistant", "content": "Yes?"}
ASKED = {"role": "user", "content": "What is 40 + 2?"}
WORKED = {"role": "assistant", "content": "40 + 2 = 42.\n#### 42"}


def parse(**columns: Any) -> Row:
    return QuestionAnswer().parse(columns, "train-0")


@pytest.mark.parametrize("column", ["messages", "prompt"])
def test_the_last_users_message_is_the_question(column: str) -> None:
    chat = [SYSTEM, HELLO, YES, ASKED]
    row = parse(**{column: chat}, answer=42, topic="sums")
    assert (row.question, row.answer, row.messages) == ("What is 40 + 2?", "42", chat)
    assert row.extra == {"topic": "sums"}
    assert row.columns["messages"] == chat


def test_an_answer_after_the_question_is_read_as_an_answer_column_is() -> None:
    row = parse(messages=[ASKED, WORKED])
    assert (row.answer, row.solution) == ("42", "40 + 2 = 42.")
    assert row.messages == [ASKED]


def test_beside_an_answer_column_it_is_the_solution() -> None:
    reply = {"role": "assistant", "content": "Add them."}
    row = parse(messages=[ASKED, reply], answer="42")
    assert (row.answer, row.solution) == ("42", "Add them.")
    assert parse(messages=[ASKED, reply], answer="42", solution="Mine.").solution == "Mine."


def test_contents_of_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "40 + 2?"}]
    assert parse(prompt=[{"role": "user", "content": parts}], answer=42).messages == [ASKED]


def test_a_row_with_a_question_is_no_chat() -> None:
    row = parse(question="?", messages=[ASKED], prompt="Say: ?", answer=42)
    assert (row.question, row.messages) == ("?", [])
    assert row.extra == {"messages": [ASKED], "prompt": "Say: ?"}


@pytest.mark.parametrize(
    ("messages", "detail"),
    [
        ([SYSTEM], "does not end with a user's"),
        ([ASKED, YES, YES], "does not end with a user's"),
        ([{"role": "tool", "content": "42"}, ASKED], "messages[0] has the role 'tool'; it must be"),
        ([{"from": "human", "value": "?"}], "messages[0] is not an object with role and content"),
        (["What?"], "messages[0] is not an object"),
        ([SYSTEM, {"role": "user", "content": None}], "messages[1] has a content that is not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a content that is not text"),
        ([{"role": "user", "content": "half \ud800"}], "surrogate"),
        ([{"role": "system", "content": "\ud800"}, ASKED], "surrogate"),
    ],
)
def test_an_unusable_chat_says_why(messages: list[Any], detail: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        parse(messages=messages, answer=42)
    assert caught.value.reason == "malformed"
    assert detail in caught.value.detail


def test_a_chat_without_an_answer_is_unusable() -> None:
    with pytest.raises(UnusableRow, match="no column 'answer'"):
        parse(messages=[ASKED])
