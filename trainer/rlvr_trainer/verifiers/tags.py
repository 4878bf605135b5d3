"""Judge the form of a completion by tags: each is there once, in order and closed.

Each opening and each closing tag occurs exactly once, every tag is closed before the next one
opens, and what it holds is not blank. With `only`, nothing but blanks stands outside of the tags.
Other tags do not count. The completion is read up to the stop marker, the thinking included.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator

from rlvr_trainer.verifiers.answer_place import MAX_CHARACTERS, AnswerPlace, cut_at_stop
from rlvr_trainer.verifiers.verifier import Case, Verifier

TagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]


class Tags(Verifier):
    """1 for a completion with each tag once, in order and closed, else 0."""

    verifier: Literal["tags"] = "tags"
    tags: Annotated[tuple[TagName, ...], Field(min_length=1)] = ("think", "answer")
    """Names of the tags in order, without brackets."""
    only: bool = False
    """Allow nothing but blanks outside of the tags."""
    first_is_open: bool = False
    """The prompt ends with the first opening tag, so that completions begin inside of it."""

    reads_answer: ClassVar[bool] = False

    @field_validator("tags")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names a tag twice; list it once")
        return value

    def reward(self, case: Case, place: AnswerPlace) -> float | None:
        """Return 1 for well-formed tags, else 0; None for other than text."""
        if not isinstance(case.completion, str):
            return None
        text = cut_at_stop(case.completion[: MAX_CHARACTERS + 1], place.stop)
        if len(text) > MAX_CHARACTERS:
            return 0.0
        if self.first_is_open:
            text = f"<{self.tags[0]}>{text}"
        outside, rest = [], text
        for tag in self.tags:
            if text.count(f"<{tag}>") != 1 or text.count(f"</{tag}>") != 1:
                return 0.0
            before, opening, rest = rest.partition(f"<{tag}>")
            content, closing, rest = rest.partition(f"</{tag}>")
            if not (opening and closing and content.strip()):
                return 0.0
            outside.append(before)
        is_clean = not "".join((*outside, rest)).strip()
        return float(is_clean or not self.only)
