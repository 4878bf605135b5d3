"""Define verifiers: the options of one in a recipe, and how it judges a completion.

A verifier is a subclass of `Verifier` in a module of its own, named in `VERIFIERS`. Its fields are
its options; its module states its rules. It takes time linear in the completion and never raises.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from rlvr_trainer.verifiers.answer_place import AnswerPlace
from rlvr_trainer.verifiers.tex import plain_tex


@dataclass(frozen=True)
class Case:
    """A completion to be judged, and what a reward may read beside it."""

    completion: str
    row: Mapping[str, Any]
    """The columns of the row, the gold answer in `answer`."""
    prompt: str = ""
    num_tokens: int | None = None
    """Tokens of the completion; None where no tokenizer is loaded."""


def _named(schema: dict[str, Any]) -> None:
    """Require a recipe to name the verifier whose options follow."""
    schema["required"] = ["verifier", *schema.get("required", ())]
    schema["properties"]["verifier"]["description"] = "Name of the verifier."


class Verifier(BaseModel):
    """A verifier with its options, as in a recipe.

    Most judge the one answer that the completion gives: they define `judge`. Those that judge the
    whole completion override `reward`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        json_schema_extra=_named,
    )

    verifier: str
    """Name of the verifier."""
    weight: float = 1.0
    """Factor on what the verifier returns."""

    best: ClassVar[float] = 1.0
    """The most that a completion can earn, before the weight."""
    reads_answer: ClassVar[bool] = True
    """False if the whole completion is judged."""
    reads_tex: ClassVar[bool] = False
    """True if the answer in a `\\boxed{}` is judged with TeX's dressing."""

    def gold_problem(self, row: Mapping[str, Any]) -> str:
        """Return what of the row cannot be judged by, and why; an empty text if nothing.

        It follows `cannot judge`: `the answer 'Paris', which is not a number`.
        """
        return ""

    def gold_answer(self, row: Mapping[str, Any]) -> str:
        """Return the row's gold answer as a completion should give it; judged the same."""
        return str(row["answer"])

    def is_well_formed(self, answer: str, row: Mapping[str, Any]) -> bool:
        """Return True if an answer is of the kind that is judged, right or wrong."""
        return True

    def judge(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return the reward of an answer, or None if it could not be verified."""
        raise NotImplementedError

    def show(self, answer: str) -> str:
        """Return a well-formed answer as it is listed among samples."""
        return answer

    def read(self, completion: str, place: AnswerPlace) -> str | None:
        """Return the one answer of a completion, as it is judged, or None."""
        answer = place.read(completion)
        if answer is None or self.reads_tex or place.kind != "boxed":
            return answer
        return plain_tex(answer) or None

    def reward(self, case: Case, place: AnswerPlace) -> float | None:
        """Return the reward of a completion, 0 without exactly one answer.

        None if the completion is not text, the gold answer cannot be judged by, or the verifier
        fails.
        """
        if not isinstance(case.completion, str) or self.gold_problem(case.row):
            return None
        answer = self.read(case.completion, place)
        return 0.0 if answer is None else self.judge(answer, case.row)

    def rewards(self, cases: Sequence[Case], place: AnswerPlace) -> list[float | None]:
        """Return the rewards of a batch, in its order."""
        return [self.reward(case, place) for case in cases]


def shown(value: object) -> str:
    """Return a value for a message, shortened."""
    return reprlib.repr(value)
