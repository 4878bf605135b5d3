"""Generate one-step word problems that a small model learns in minutes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.tasks.base import Split
from rlvr_trainer.tasks.question_answer import QuestionAnswer

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

NUM_TRAIN_ROWS = 2000
NUM_TEST_ROWS = 200

NUMBER_RANGE = (2, 60)
"""Range of the numbers in a problem."""
NAMES = ("Tom", "Mia", "Sam", "Ava", "Leo", "Zoe", "Max", "Eva", "Ben", "Amy", "Dan", "Ida")
THINGS = (
    "apples", "books", "coins", "pens", "cards", "eggs", "shells", "stamps", "balls", "cups",
    "stones", "toys",
)  # fmt: skip

FORMS = (
    "{name} has {a} {things}. {friend} gives {name} {x} {others} and {b} {things}. "
    "How many {things} does {name} have?",
    "{name} has {a} {things} at home, {x} {others} in a bag and {b} {things} at school. "
    "How many {things} does {name} have?",
    "{name} has {a} {things} on a table, {x} {others} in a box and {b} {things} on a shelf. "
    "How many {things} does {name} have?",
    "{name} buys {a} {things}, {x} {others} and then {b} more {things}. "
    "How many {things} does {name} have?",
)
"""Problems with two numbers to add and, between them, one that does not count."""

ATTEMPTS_PER_ROW = 100


class Arithmetic(QuestionAnswer):
    """Word problems: two numbers to add and one that does not count; no question twice.

    The test rows are drawn first, so they do not depend on how many rows train.
    """

    name: ClassVar[str] = "arithmetic"

    def default_rows(self, split: Split, recipe: Recipe) -> Iterator[Mapping[str, Any]]:
        """Yield `num_train_rows` or `num_test_rows` problems, the same for the same seed.

        Raises ConfigError if there are fewer different ones.
        """
        num_test_rows = recipe.data.num_test_rows or NUM_TEST_ROWS
        asked: set[str] = set()
        test = list(_problems(num_test_rows, f"arithmetic-test-{recipe.seed}", asked))
        if split == "test":
            yield from test
            return
        num_train_rows = recipe.data.num_train_rows or NUM_TRAIN_ROWS
        yield from _problems(num_train_rows, f"arithmetic-train-{recipe.seed}", asked)


def _problems(num_rows: int, seed: str, asked: set[str]) -> Iterator[dict[str, Any]]:
    """Yield problems whose questions are not in `asked`, and add them there."""
    draw = random.Random(seed)  # seeded by its text, the same on every platform
    for _ in range(num_rows):
        for _ in range(ATTEMPTS_PER_ROW):
            problem = _problem(draw)
            if problem["question"] not in asked:
                break
        else:
            raise ConfigError(
                f"task arithmetic has too few different problems for {num_rows} rows; "
                "lower data.num_train_rows or data.num_test_rows"
            )
        asked.add(problem["question"])
        yield problem


def _problem(draw: random.Random) -> dict[str, Any]:
    name, friend = draw.sample(NAMES, 2)
    things, others = draw.sample(THINGS, 2)
    a, b, x = (draw.randint(*NUMBER_RANGE) for _ in range(3))
    question = draw.choice(FORMS).format(
        name=name, friend=friend, things=things, others=others, a=a, b=b, x=x
    )
    solution = f"{name} has {a} + {b} = {a + b} {things}."
    return {"question": question, "answer": a + b, "solution": solution}
