"""Penalise long completions: 0 up to `free_tokens`, then smoothly down to -1 at `max_tokens`.

Between them the penalty is half a cosine wave, -(1 - cos πx) / 2 for the share x of the way, so
that it sets in and ends without an edge. It counts the tokens of the completion, its
end-of-sequence token among them. Where no tokenizer is loaded (`rlvr plan`, the preparation) they
are estimated as 3.6 characters each. The answer is not read.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rlvr_trainer.verifiers.answer_place import AnswerPlace
from rlvr_trainer.verifiers.verifier import Case, Verifier

CHARACTERS_PER_TOKEN = 3.6
"""The average of English text with numbers."""


class Length(Verifier):
    """0 for a short completion, falling to -1 for a long one."""

    verifier: Literal["length"] = "length"
    free_tokens: Annotated[int, Field(ge=0)]
    """Length up to which nothing is deducted."""
    max_tokens: Annotated[int, Field(gt=0)]
    """Length from which -1 is given."""

    best: ClassVar[float] = 0.0
    reads_answer: ClassVar[bool] = False

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.free_tokens >= self.max_tokens:
            raise ValueError(
                f"free_tokens = {self.free_tokens} is not below max_tokens = {self.max_tokens}; "
                "raise max_tokens"
            )
        return self

    def reward(self, case: Case, place: AnswerPlace) -> float | None:
        """Return the penalty, from -1 to 0; None for other than text."""
        if not isinstance(case.completion, str):
            return None
        num_tokens: float = len(case.completion) / CHARACTERS_PER_TOKEN
        if case.num_tokens is not None:
            num_tokens = case.num_tokens
        share = (num_tokens - self.free_tokens) / (self.max_tokens - self.free_tokens)
        return (math.cos(math.pi * min(max(share, 0.0), 1.0)) - 1) / 2
