"""Provide verifiers: pure judges of a completion, with typed options.

    >>> place = AnswerPlace("boxed")
    >>> case = Case("6 x 7 is \\\\boxed{42}", {"answer": "42"})
    >>> Number(tolerance=0.01).reward(case, place)
    1.0

Where the answer is read (`AnswerPlace`) is apart from how it is judged.
"""

from collections.abc import Mapping

from rlvr_trainer.verifiers.answer_place import ANSWER_MARKER, STOP, AnswerPlace, cut_at_stop
from rlvr_trainer.verifiers.choice import Choice
from rlvr_trainer.verifiers.format import Format
from rlvr_trainer.verifiers.json import Json
from rlvr_trainer.verifiers.length import Length
from rlvr_trainer.verifiers.math import Math
from rlvr_trainer.verifiers.number import Number
from rlvr_trainer.verifiers.regex import Regex
from rlvr_trainer.verifiers.tags import Tags
from rlvr_trainer.verifiers.text import Text
from rlvr_trainer.verifiers.verifier import Case, Verifier

__all__ = [
    "ANSWER_MARKER",
    "DEFAULTS",
    "STOP",
    "VERIFIERS",
    "AnswerPlace",
    "Case",
    "Choice",
    "Format",
    "Json",
    "Length",
    "Math",
    "Number",
    "Regex",
    "Tags",
    "Text",
    "Verifier",
    "cut_at_stop",
]

VERIFIERS: tuple[type[Verifier], ...] = (
    Number,
    Text,
    Choice,
    Math,
    Regex,
    Json,
    Format,
    Tags,
    Length,
)
"""Every verifier, in the order in which they are listed."""

DEFAULTS: Mapping[str, Verifier] = {"format": Format(), "correctness": Number()}
"""The verifiers of rewards that a recipe names without a verifier or a function."""
