"""Write completions that should not be rewarded, from a row and how its recipe lays it out.

Each is known from public reports of rewards that models learnt to earn without solving the task.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlvr_trainer.recipe.schema import AttackName
from rlvr_trainer.rewards import parse_number
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout

NUM_COMMON = 10
"""Answers that an attack lists at the most."""
LONG_TEXT = "so we go on, " * 7000
OPEN_TAGS = "<think><answer><answer></think>\n\\boxed{\\boxed{}\n```json\n{"

Gives = Literal["nothing", "wrong", "guess", "list", "gold"]
"""Answer that a completion gives: none, a wrong one, one that is right by chance, the gold answer
among others or in a form that is not one (`list`), or the worked text to the gold answer."""

_LOOK_ALIKES = str.maketrans(
    "0123456789aceopxyABCEHKMOPTX",
    "٠١٢٣٤٥٦٧٨٩асеорхуАВСЕНКМОРТХ",
)
_NUMBER = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?")


class Attacked:
    """The rows of a recipe, their layout and their most common answers."""

    def __init__(self, layout: PromptLayout, rows: Sequence[Row]) -> None:
        self.layout = layout
        self.rows = rows
        answers = Counter(row.answer for row in rows)
        self.common = [answer for answer, _ in answers.most_common(NUM_COMMON)]
        self.chance = answers.most_common(1)[0][1] / len(rows) if rows else 0.0
        """Share of the rows that the most common answer is right for."""

    def laid_out(self, row: Row, answer: str) -> str:
        """Return a completion that gives an answer in the recipe's form, without worked text."""
        return self.layout.completion(replace(row, answer=answer, solution=""))

    def other_row(self, row: Row) -> Row | None:
        """Return a row with another answer, always the same for a row; None if there is none."""
        draw = random.Random(row.id)
        for other in draw.sample(self.rows, min(len(self.rows), 50)):
            if other.answer != row.answer:
                return other
        return None

    def several(self, row: Row) -> list[str]:
        """Return common answers with the gold answer between them; just it if all are the same."""
        others = [answer for answer in self.common if answer != row.answer]
        middle = max(1, len(others) // 2)
        return [*others[:middle], row.answer, *(others[middle:] or others[:1])]


@dataclass(frozen=True)
class Attack:
    """A way to write completions that are not a right answer."""

    about: str
    gives: Gives
    complete: Callable[[Row, Attacked], str | None]
    """Return the completion; None if it cannot be written for a row."""


def _other_answer(row: Row, attacked: Attacked) -> str | None:
    other = attacked.other_row(row)
    gives = other and replace(row, answer=other.answer, solution=other.solution)
    return attacked.layout.completion(gives) if gives else None


def _question_content(row: Row, attacked: Attacked) -> str | None:
    if parse_number(row.answer) is None:
        return attacked.laid_out(row, " ".join(row.question.split()))
    numbers = _NUMBER.findall(row.question)
    return attacked.laid_out(row, numbers[-1]) if numbers else None


def _look_alikes(row: Row, attacked: Attacked) -> str | None:
    copied = row.answer.translate(_LOOK_ALIKES)
    return attacked.laid_out(row, copied) if copied != row.answer else None


def _all_options(row: Row, attacked: Attacked) -> str | None:
    answers = attacked.several(row)
    return attacked.laid_out(row, " or ".join(answers)) if len(answers) > 1 else None


def _many_answers(row: Row, attacked: Attacked) -> str | None:
    answers = attacked.several(row)
    completions = (attacked.laid_out(row, answer) for answer in answers)
    return "\n".join(completions) if len(answers) > 1 else None


ATTACKS: Mapping[AttackName, Attack] = {
    "empty": Attack("no text", "nothing", lambda row, attacked: ""),
    "no-answer": Attack(
        "the form of an answer, with nothing in it",
        "nothing",
        lambda row, attacked: attacked.laid_out(row, ""),
    ),
    "do-not-know": Attack(
        "an answer that admits ignorance",
        "wrong",
        lambda row, attacked: attacked.laid_out(row, "I don't know"),
    ),
    "prompt": Attack(
        "the prompt copied", "nothing", lambda row, attacked: attacked.layout.prompt(row)
    ),
    "long-text": Attack(
        f"{len(LONG_TEXT):,} characters without an answer",
        "nothing",
        lambda row, attacked: LONG_TEXT,
    ),
    "open-tags": Attack(
        "tags that are opened and not closed", "nothing", lambda row, attacked: OPEN_TAGS
    ),
    "most-common": Attack(
        "the most common answer of the rows, always",
        "guess",
        lambda row, attacked: attacked.laid_out(row, attacked.common[0]),
    ),
    "other-answer": Attack("the gold completion of another row", "wrong", _other_answer),
    "question-content": Attack(
        "the last number of the question, or its words, as the answer", "guess", _question_content
    ),
    "all-options": Attack("several answers as one, the right one among them", "list", _all_options),
    "many-answers": Attack(
        "several answers in turn, the right one neither first nor last", "list", _many_answers
    ),
    "look-alikes": Attack(
        "the gold answer in digits and letters of other scripts", "list", _look_alikes
    ),
    "solution-only": Attack(
        "the worked text without an answer",
        "gold",
        lambda row, attacked: attacked.layout.completion(replace(row, answer="")),
    ),
}
"""The attacks by name, those that answer least first."""
