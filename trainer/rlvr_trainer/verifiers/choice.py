"""Judge a multiple choice: the answer names one option, by its label or by its text.

The options of a row are the column `choices` or `options`: a list of texts, which get the labels A,
B, C, …; a mapping of labels to texts; or lists of both, `{"label": […], "text": […]}`. Without such
a column the labels are A to Z.

An answer is

- a label: `B`, `b`, `(B)`, `[B]`, `B.`, `B)`, `B:`
- a label and its own text: `B. Paris`, `(B) Paris`, `B: Paris`
- the text of exactly one option, by the rules of `text` with its defaults, articles kept

It may follow `the answer is`, `the correct option is`, `answer:`, `option`, `choice`; asterisks,
underscores and a full stop around it do not matter. A label is read before a text. Anything else is
no answer: `A and B`, `A or B`, `AB`, `not A`, `B because …`, a label with another option's text.

The gold answer is a label or a text alike, or with `index_from` a label or the option's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from string import ascii_uppercase
from typing import Any, Literal

from rlvr_trainer.verifiers.text import Text
from rlvr_trainer.verifiers.verifier import Verifier, shown

COLUMNS = ("choices", "options")

MAX_CHARACTERS = 5000
"""An answer with more is none."""

_LEAD_IN = re.compile(
    r"(?:(?:so |thus |therefore |hence )?,? ?(?:the )?(?:(?:correct|right|best|final) )?"
    r"(?:answer|option|choice) ?(?:is|:|=)?:? ?)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"([(\[]?)([^\W_]{1,3})([)\]]?)([.:)]?)(.*)", re.DOTALL)
_CLOSING = {"": "", "(": ")", "[": "]"}
_TEXT = Text(ignore_articles=False)  # `A Rome` is not `Rome`


class Choice(Verifier):
    """1 for an answer that names the right option and no other, else 0."""

    verifier: Literal["choice"] = "choice"
    options_column: str = ""
    """Column with the options of a row; empty: `choices` or `options`."""
    index_from: Literal[0, 1] | None = None
    """The gold answer is the number of the option, counted from 0 or 1, unless it is a label; null:
    it is a label or a text."""

    def gold_problem(self, row: Mapping[str, Any]) -> str:
        """Return a gold answer that names no option, for a message, or an empty text."""
        options = self._options(row)
        if self._gold(row, options) is not None:
            return ""
        known = ", ".join(options) if len(options) < 12 else "a letter"
        return f"the answer {shown(row.get('answer'))}, which is none of the options ({known})"

    def gold_answer(self, row: Mapping[str, Any]) -> str:
        """Return the gold answer, the label in place of an option's number."""
        label = self._gold(row, self._options(row))
        return str(row["answer"]) if self.index_from is None or label is None else label

    def is_well_formed(self, answer: str, row: Mapping[str, Any]) -> bool:
        """Return True for exactly one option."""
        return read_choice(answer, self._options(row)) is not None

    def judge(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return 1 for the right option, else 0."""
        options = self._options(row)
        gold = self._gold(row, options)
        return None if gold is None else float(read_choice(answer, options) == gold)

    def _gold(self, row: Mapping[str, Any], options: Mapping[str, str]) -> str | None:
        answer = row.get("answer")
        if not isinstance(answer, str):
            return None
        if self.index_from is None or answer in options:
            return _read_gold(answer, tuple(options.items()))
        if not (answer.isascii() and answer.isdigit() and len(answer) < 4):
            return None
        labels, index = list(options), int(answer) - self.index_from
        return labels[index] if 0 <= index < len(labels) else None

    def _options(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return label → text; empty texts if the row lists no options."""
        columns = (self.options_column,) if self.options_column else COLUMNS
        given = next((row[column] for column in columns if row.get(column)), None)
        if isinstance(given, Mapping):
            labels, texts = given.get("label"), given.get("text")
            if isinstance(labels, list) and isinstance(texts, list):
                return dict(zip(map(str, labels), map(str, texts), strict=False))
            return {str(label): str(text) for label, text in given.items()}
        if isinstance(given, list | tuple):
            return dict(zip(ascii_uppercase, map(str, given), strict=False))
        return dict.fromkeys(ascii_uppercase, "")


def read_choice(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the label of the one option that an answer names, or None. Never raises.

    `options`: label → text.
    """
    if len(answer) > MAX_CHARACTERS:
        return None
    texts = _normalised(tuple(options.items()))
    whole = _undressed(answer)
    label = _labelled(whole, texts) or _by_text(whole, texts)
    for _ in range(2):  # `the answer is option B`
        lead_in = _LEAD_IN.match(whole) if label is None else None
        if lead_in is None:
            break
        whole = _undressed(whole[lead_in.end() :])
        label = _labelled(whole, texts) or _by_text(whole, texts)
    return label


@lru_cache(maxsize=4096)
def _read_gold(answer: str, options: tuple[tuple[str, str], ...]) -> str | None:
    return read_choice(answer, dict(options))


@lru_cache(maxsize=4096)
def _normalised(options: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return {label: _TEXT.normalise(text) for label, text in options}


def _undressed(text: str) -> str:
    return text.strip().strip("*_`").strip().removesuffix(".").rstrip("*_`").strip()


def _labelled(text: str, texts: Mapping[str, str]) -> str | None:
    match = _LABEL.fullmatch(text)
    if match is None:
        return None
    opening, name, closing, mark, rest = match.groups()
    if closing != _CLOSING[opening] and (opening, closing) != ("", ")"):
        return None
    label = name if name in texts else _label_of(name, texts)
    rest = rest and _TEXT.normalise(rest)
    if label is None or not rest:
        return label
    is_apart = bool(closing or mark)
    return label if is_apart and rest == texts[label] else None


def _label_of(name: str, texts: Mapping[str, str]) -> str | None:
    return next((label for label in texts if label.casefold() == name.casefold()), None)


def _by_text(text: str, texts: Mapping[str, str]) -> str | None:
    words = _TEXT.normalise(text)
    labels = [label for label, option in texts.items() if words and option == words]
    return labels[0] if len(labels) == 1 else None
