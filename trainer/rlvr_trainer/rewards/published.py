"""The two rewards of the published recipe, as functions of a completion.

The answer stands on a line of its own: exactly the answer marker, then a number under
`verifiers.number`'s grammar, then nothing. `verifiers.answer_place` states how the line is read.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from rlvr_trainer.verifiers import ANSWER_MARKER, STOP, AnswerPlace, Case, Format, Number
from rlvr_trainer.verifiers.number import TOLERANCE, is_near, parse_gold, parse_number

_FORMAT, _NUMBER = Format(), Number()


def format_reward(
    completion: str, *, marker: str = ANSWER_MARKER, stop: str = STOP
) -> float | None:
    """Return 0.5 for exactly one well-formed answer line, else 0; None for other than text."""
    return _FORMAT.reward(Case(completion, {}), _place(marker, stop))


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
    verifier = _NUMBER if tolerance is TOLERANCE else Number(tolerance=float(tolerance))
    place = _place(marker, stop)
    return verifier.reward(Case(completion, {"answer": answer}), place)


def extract_answer(completion: str, *, marker: str = ANSWER_MARKER, stop: str = STOP) -> str | None:
    """Return the number of the strict reading in plain digits (`$1,234` as `1234`)."""
    answer = _place(marker, stop).read(completion)
    number = None if answer is None else parse_number(answer)
    return None if number is None else f"{number:f}"


def is_correct_number(
    number: Decimal | None, answer: str, *, tolerance: Decimal = TOLERANCE
) -> bool:
    """Return True if a number is within `tolerance` of the gold answer."""
    gold = parse_gold(answer)
    return number is not None and gold is not None and is_near(number, gold, tolerance)


@lru_cache(maxsize=64)
def _place(marker: str, stop: str) -> AnswerPlace:
    return AnswerPlace(marker=marker, stop=stop)
