"""Score completions by a verifier or a user's function, without ever raising."""

from __future__ import annotations

import logging
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rlvr_trainer.verifiers import AnswerPlace, Case, Verifier

logger = logging.getLogger(__name__)

MAX_REASON_CHARACTERS = 300


class Unverifiable(Exception):
    """A reward returned no number, for the reason in the message."""


class Reward:
    """A reward of the recipe; never raises, keeps and logs its first failure."""

    def __init__(self, label: str, function: Callable[[str, Mapping[str, Any]], Any]) -> None:
        self.label = label
        """Name in messages: the recipe's field and, for a user's reward, the code."""
        self.failure = ""
        """The first failure: reward, reason and row. Empty if there is none."""
        self._function = function

    def __call__(self, completion: str, row: Mapping[str, Any]) -> float | None:
        return self.batch([Case(completion, row)])[0]

    def batch(self, cases: Sequence[Case]) -> list[float | None]:
        """Return the reward of each completion, None where it could not be verified."""
        return [self._number_or_none(outcome) for outcome in self._outcomes(cases)]

    def verify(self, case: Case) -> float:
        """Return the reward. Raises Unverifiable, which names reward, reason and row."""
        (outcome,) = self._outcomes([case])
        if isinstance(outcome, Unverifiable):
            raise outcome
        return outcome

    def _outcomes(self, cases: Sequence[Case]) -> Iterator[float | Unverifiable]:
        for case, value in zip(cases, self._values(cases), strict=True):
            try:
                if isinstance(value, BaseException):
                    raise value
                yield number_of(value)
            except (Exception, SystemExit) as error:
                raised = (
                    "" if isinstance(error, Unverifiable) else f"raised {type(error).__name__}: "
                )
                reason = " ".join(f"{raised}{error}".split())[:MAX_REASON_CHARACTERS]
                where = f"row {case.row.get('id', 'without an id')}"
                unverifiable = Unverifiable(f"{self.label} {reason}, on {where}")
                unverifiable.__cause__ = error
                yield unverifiable

    def _values(self, cases: Sequence[Case]) -> Sequence[Any]:
        """Return what the function returns or raises for each completion."""
        return [self._value(case) for case in cases]

    def _value(self, case: Case) -> Any:
        try:
            return self._function(case.completion, dict(case.row))  # a copy, which it may change
        except (Exception, SystemExit) as error:
            return error

    def _number_or_none(self, outcome: float | Unverifiable) -> float | None:
        if not isinstance(outcome, Unverifiable):
            return outcome
        if not self.failure:
            self.failure = str(outcome)
            logger.warning("%s; later failures are only counted", self.failure)
        return None


class VerifierReward(Reward):
    """A reward by a verifier of the library."""

    def __init__(self, label: str, verifier: Verifier, place: AnswerPlace) -> None:
        super().__init__(label, lambda completion, row: self._value(Case(completion, row)))
        self.verifier = verifier
        self.place = place

    def _values(self, cases: Sequence[Case]) -> Sequence[Any]:
        rewards = self.verifier.rewards(cases, self.place)
        return [
            self._failure(case) if reward is None else reward
            for case, reward in zip(cases, rewards, strict=True)
        ]

    def _failure(self, case: Case) -> Unverifiable:
        problem = self.verifier.gold_problem(case.row)
        return Unverifiable(f"cannot judge {problem or 'the completion'}")


def number_of(value: Any) -> float:
    """Return a reward as a float. Raises Unverifiable for anything but a finite number."""
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        kind = "" if isinstance(value, float | None) else f", a {type(value).__name__}"
        raise Unverifiable(f"returned {reprlib.repr(value)}{kind}, not a finite number")
    return number
