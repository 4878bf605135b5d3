"""Read rows that are chats: `messages`, or `prompt` as a list of {role, content}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr_trainer.tasks.base import Message, UnusableRow

CHAT_COLUMNS = ("messages", "prompt")
"""Columns with a chat, as TRL and most data sets on the hub have them."""
ROLES = ("system", "user", "assistant")


def chat_column(raw: Mapping[str, Any]) -> str:
    """Return the column that holds the chat of a row without a `question`; empty if none does."""
    if "question" in raw:
        return ""
    lists = (name for name in CHAT_COLUMNS if raw.get(name) and isinstance(raw[name], list))
    return next(lists, "")


def read_chat(raw: Mapping[str, Any], column: str) -> tuple[dict[str, Any], list[Message]]:
    """Return a row's columns with those of its chat, and the messages up to the question.

    The last user's message is the question. An assistant's message after it is the `answer`, or
    the `solution` if the row has an answer. Raises UnusableRow.
    """
    messages = [_message(item, column, i) for i, item in enumerate(raw[column])]
    given = ""
    if messages and messages[-1]["role"] == "assistant":
        given = messages.pop()["content"]
    if not messages or messages[-1]["role"] != "user":
        raise UnusableRow(
            "malformed", f"{column} does not end with a user's message, or one and an answer"
        )
    columns = {name: value for name, value in raw.items() if name != column}
    if given:
        columns.setdefault("solution" if "answer" in raw else "answer", given)
    return {**columns, "question": messages[-1]["content"]}, messages


def _message(item: Any, column: str, index: int) -> Message:
    where = f"{column}[{index}]"
    if not isinstance(item, Mapping) or not {"role", "content"} <= item.keys():
        raise UnusableRow("malformed", f"{where} is not an object with role and content")
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise UnusableRow(
            "malformed", f"{where} has the role {role!r}; it must be one of {', '.join(ROLES)}"
        )
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _joined(content)
    if not isinstance(content, str):
        raise UnusableRow("malformed", f"{where} has a content that is not text")
    return {"role": role, "content": content}


def _joined(parts: Sequence[Any]) -> str | None:
    """Return the text of `[{"type": "text", "text": …}]`; None if a part is none."""
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
