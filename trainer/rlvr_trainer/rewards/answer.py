"""Read the answer of a completion, strictly by its marker line or flexibly by its last number.

The strict reading, by which completions are rewarded:

1. The completion ends before the first line that starts with the stop marker: a next question
   that a model writes is never read.
2. The answer stands on a line of its own: exactly the answer marker, then a number under
   `rewards.number`'s grammar, then nothing. Blanks around the line do not matter.
3. There is exactly one such line. A second line that opens with the marker, even with the same
   answer, makes the reward 0: no credit for trying several answers.

Every function takes time linear in the completion's length and never raises.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from functools import lru_cache

from rlvr_trainer.rewards.number import BLANKS, CURRENCIES, MINUS, parse_number

ANSWER_MARKER = "#### The final answer is"
STOP = "Question:"
TOLERANCE = Decimal("1e-3")

MAX_CHARACTERS = 100_000
"""Completions with more before the stop marker get 0."""

FORMAT = 0.5
CORRECT = 1.0

# Twice the digits of a number, so that a difference is never rounded; not the caller's context,
# which could make it raise.
_EXACT = Context(prec=64)
# A point opens a number (`.5`, `$.50`) unless it ends a word or other points. One class after one
# character cannot backtrack.
_DIGITS = re.compile(r"(?:(?<![\w.,])\.)?[0-9][0-9,.]*")


def format_reward(
    completion: str, *, marker: str = ANSWER_MARKER, stop: str = STOP
) -> float | None:
    """Return 0.5 for exactly one well-formed answer line, else 0; None for other than text."""
    if not isinstance(completion, str):
        return None
    return 0.0 if _answer(completion, marker, stop) is None else FORMAT


def correctness_reward(
    completion: str,
    answer: str,
    *,
    marker: str = ANSWER_MARKER,
    stop: str = STOP,
    tolerance: Decimal = TOLERANCE,
) -> float | None:
    """Return 1 for exactly one well-formed answer line within `tolerance` of `answer`, else 0.

    The tolerance is absolute, except that only 0 equals 0. None if the gold answer is not a number,
    which is not the fault of the completion.
    """
    gold = _gold(answer) if isinstance(answer, str) else None
    if gold is None or not isinstance(completion, str):
        return None
    value = _answer(completion, marker, stop)
    return CORRECT if value is not None and _near(value, gold, tolerance) else 0.0


def extract_answer(completion: str, *, marker: str = ANSWER_MARKER, stop: str = STOP) -> str | None:
    """Return the number of the strict reading in plain digits (`$1,234` as `1234`)."""
    value = _answer(completion, marker, stop)
    return None if value is None else f"{value:f}"


def cut_at_stop(completion: str, stop: str = STOP) -> str:
    """Return the completion up to the first line that starts with `stop`, if that is not ""."""
    if not stop:
        return completion
    if completion.startswith(stop):
        return ""
    end = completion.find("\n" + stop)
    return completion if end < 0 else completion[:end]


def last_number(completion: str, *, stop: str = STOP) -> Decimal | None:
    """Return the last number anywhere in the completion, for the flexible evaluation."""
    text = cut_at_stop(completion[: MAX_CHARACTERS + 1], stop)
    for match in reversed(list(_DIGITS.finditer(text))):
        digits = match.group().rstrip(".,")
        # the last item of a list such as `3,4,5` or `1.2.3` counts
        for candidate in (digits, digits.rpartition(",")[2], digits.rpartition(".")[2]):
            number = parse_number(candidate)
            if number is not None:
                signed = candidate == digits and _follows_minus(text, match.start())
                return number.copy_negate() if signed else number
    return None


def is_correct_number(
    number: Decimal | None, answer: str, *, tolerance: Decimal = TOLERANCE
) -> bool:
    """Return True if a number is within `tolerance` of the gold answer."""
    gold = _gold(answer)
    return number is not None and gold is not None and _near(number, gold, tolerance)


def _answer(completion: str, marker: str, stop: str) -> Decimal | None:
    text = cut_at_stop(completion[: MAX_CHARACTERS + 1], stop)
    if marker not in text or len(text) > MAX_CHARACTERS:
        return None
    marked = [
        line
        for line in (line.strip(BLANKS) for line in text.split("\n"))
        if line.startswith(marker)
    ]
    if len(marked) != 1:
        return None
    value = marked[0][len(marker) :]
    if marker[-1:].isalnum() and value[:1] not in BLANKS:
        return None  # the marker's last word is longer: `… is42`, `… isn't`
    return parse_number(value)


@lru_cache(maxsize=4096)
def _gold(answer: str) -> Decimal | None:
    return parse_number(answer)


def _near(value: Decimal, gold: Decimal, tolerance: Decimal) -> bool:
    if bool(value) != bool(gold):
        return False
    return _EXACT.abs(_EXACT.subtract(value, gold)) <= tolerance


def _follows_minus(text: str, start: int) -> bool:
    """Return True if the number at `start` has a minus that is a sign, not a subtraction."""
    before = text[max(0, start - 5) : start]
    if before.rstrip(BLANKS).endswith(tuple(CURRENCIES)):
        before = before.rstrip(BLANKS).rstrip(CURRENCIES + "\\")
    return before.endswith(tuple(MINUS)) and not before[-2:-1].isalnum()
