"""Judge the form of a completion: it gives exactly one answer, at its place, of the right kind.

The kind is that of the recipe's first other reward whose verifier reads the answer (a number, a
choice, a JSON value, …), or a number if there is none. Right and wrong answers earn the same.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal, Self

from rlvr_trainer.verifiers.answer_place import AnswerPlace
from rlvr_trainer.verifiers.number import Number
from rlvr_trainer.verifiers.verifier import Case, Verifier


class Format(Verifier):
    """0.5 for exactly one answer at its place that can be judged, else 0."""

    verifier: Literal["format"] = "format"

    best: ClassVar[float] = 0.5

    @cached_property
    def kind(self) -> Verifier:
        """The verifier that says what a well-formed answer is."""
        return Number()

    def of(self, kind: Verifier) -> Self:
        """Return the verifier of the form of answers that `kind` judges."""
        copy = self.model_copy()
        copy.__dict__["kind"] = kind
        return copy

    def reward(self, case: Case, place: AnswerPlace) -> float | None:
        """Return 0.5 for one answer of the right kind, else 0; None for other than text."""
        if not isinstance(case.completion, str):
            return None
        kind = self.kind
        answer = kind.read(case.completion, place)
        is_well_formed = answer is not None and kind.is_well_formed(answer, case.row)
        return self.best if is_well_formed else 0.0
