"""Judge mathematics by Math-Verify: fractions, formulas, sets, intervals, equations.

- Answer and gold answer are LaTeX or plain notation. The same text is right without further work.
- **A number** (by the grammar of `number`) is right if it has the gold answer's value exactly.
  Where the gold answer is a number, the answer must be one too, worked out: `1 + 6`, `2^3` and
  `14/2` are not 7 and 8, since a question states such terms itself. A fraction that is not whole,
  a percentage and scientific notation (`1.5 \\times 10^3`) are numbers.
- **Words** (`\\text{Monday}`) are compared by the rules of `text`: Math-Verify reads them as
  products of letters, in which their order is lost.
- **An equation** counts for a gold answer without `=` only as `name = value`: `x = 42` is 42,
  `41 = 42` and `x = 41 = 42` are not.
- **Everything else** is compared by Math-Verify: both must be the same expression, set, tuple,
  interval, matrix or relation. An equivalent form is right. `41 or 42` is a set, and not 42.
  Values must agree in nine digits, where Math-Verify rounds to six decimals: 10^-7 is not 10^-8.
- **Dots** (`1, 2, \\ldots, n`) are text, blanks apart.

Math-Verify is installed by `pip install 'rlvr[verifiers]'`. It runs in worker processes, as sympy
can take seconds or for ever: a comparison over `timeout_s` is stopped by killing its worker, and
the completion could not be verified, which is not the same as wrong. So is one whose gold answer
cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rlvr_trainer.verifiers.answer_place import AnswerPlace
from rlvr_trainer.verifiers.number import parse_number
from rlvr_trainer.verifiers.tex import plain_tex
from rlvr_trainer.verifiers.text import Text
from rlvr_trainer.verifiers.verifier import Case, Verifier, shown
from rlvr_trainer.workers import WorkerFailure, worker_pool

MAX_CHARACTERS = 2000
"""An answer with more is wrong."""
MAX_WORKER_BYTES = 4 << 30
"""Memory of a worker; a comparison that needs more could not be verified."""
MAX_RELATIVE_DIFFERENCE = 1e-9

_EQUALS = re.compile(r"(?<![<>!:=])=(?![=<>])")
_NAMED = re.compile(r"\s*\\?[A-Za-z]{1,8}(?:_(?:\w|\{\w{1,4}\}))?(?:\([a-z]\))?\s*")
_DOTS = re.compile(r"\\[lcd]?dots|…|\.\.\.")
_WORDS = re.compile(r"(?=.*[^\W\d_]{3})[^\W\d_]+(?:[ '-][^\W\d_]+)*\.?")
_TEX_FRACTION = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>\d{1,20}) ?)?"
    r"\\[dt]?frac ?(?:\{(?P<top>\d{1,20})\}|(?P<t>\d)) ?(?:\{(?P<bottom>\d{1,20})\}|(?P<b>\d))"
)
_FRACTION = re.compile(r"(?P<sign>[-+]?)(?P<top>\d{1,20}) ?/ ?(?P<bottom>\d{1,20})")
_SCIENTIFIC = re.compile(
    r"[-+]?\d{1,20}(?:\.\d{1,20})? ?(?:\\times|\\cdot|×|\*) ?10 ?\^ ?\{?-?\d{1,3}\}?"
)
_WORD_RULES = Text()


class Math(Verifier):
    """1 for an answer that is mathematically the gold answer, else 0."""

    verifier: Literal["math"] = "math"
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Time limit of one comparison; over it, the completion could not be verified."""

    reads_tex: ClassVar[bool] = True

    @model_validator(mode="after")
    def _is_installed(self) -> Math:
        if find_spec("math_verify") is None:
            raise ValueError(
                "math needs the package math-verify, which is not installed: "
                "pip install 'rlvr[verifiers]'"
            )
        return self

    def gold_problem(self, row: Mapping[str, Any]) -> str:
        """Return a gold answer without text, for a message, or an empty text."""
        answer = row.get("answer")
        if isinstance(answer, str) and 0 < len(answer.strip()) <= MAX_CHARACTERS:
            return ""
        return f"the answer {shown(answer)}, which is not a formula"

    def judge(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return 1 for the same, 0 for another, None if it could not be compared in time."""
        verdict = decide(answer, row["answer"])
        return self._compare([(row["answer"], answer)])[0] if verdict is None else verdict

    def rewards(self, cases: Sequence[Case], place: AnswerPlace) -> list[float | None]:
        """Return the rewards of a batch; what needs Math-Verify is compared side by side."""
        rewards: list[float | None] = []
        compared: dict[tuple[str, str], list[int]] = {}
        for index, case in enumerate(cases):
            rewards.append(None)
            if not isinstance(case.completion, str) or self.gold_problem(case.row):
                continue
            answer = self.read(case.completion, place)
            gold = case.row["answer"]
            rewards[index] = 0.0 if answer is None else decide(answer, gold)
            if answer is not None and rewards[index] is None:
                compared.setdefault((gold, answer), []).append(index)
        for indices, verdict in zip(compared.values(), self._compare(list(compared)), strict=True):
            for index in indices:
                rewards[index] = verdict
        return rewards

    def reward(self, case: Case, place: AnswerPlace) -> float | None:
        """Return the reward of a completion, None if it could not be compared in time."""
        return self.rewards([case], place)[0]

    def _compare(self, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
        if not pairs:
            return []
        pool = worker_pool("rlvr_trainer.verifiers.math:comparison")
        verdicts = pool.call(pairs, self.timeout_s)
        return [None if isinstance(verdict, WorkerFailure) else verdict for verdict in verdicts]


@lru_cache(maxsize=4096)
def decide(answer: str, gold: str) -> float | None:
    """Return the reward where the rules decide without Math-Verify, else None."""
    if len(answer) > MAX_CHARACTERS:
        return 0.0
    answer, gold = (" ".join(plain_tex(text).split()) for text in (answer, gold))
    if answer == gold:
        return 1.0
    if not _EQUALS.search(gold):
        sides = _EQUALS.split(answer)
        if len(sides) > 2 or (len(sides) == 2 and not _NAMED.fullmatch(sides[0])):
            return 0.0
        answer = sides[-1].strip()
    if _DOTS.search(gold):
        return float(answer.replace(" ", "") == gold.replace(" ", ""))
    if _WORDS.fullmatch(gold):
        return float(_WORD_RULES.normalise(answer) == _WORD_RULES.normalise(gold))
    gold_number = parse_number(gold)
    if gold_number is None:
        return None
    number = parse_number(answer)
    if number is not None:
        if number == gold_number and ("%" in answer) == ("%" in gold):
            return 1.0
        return None if "%" in answer or "%" in gold else 0.0
    fraction = _fraction(answer)
    if fraction is not None:
        is_worked_out = fraction.denominator != 1
        return float(is_worked_out and fraction == Fraction(gold_number) and "%" not in gold)
    return None if _SCIENTIFIC.fullmatch(answer) else 0.0


def _fraction(text: str) -> Fraction | None:
    match = _FRACTION.fullmatch(text) or _TEX_FRACTION.fullmatch(text)
    if match is None:
        return None
    parts = match.groupdict()
    top, bottom = (int(parts[name] or parts[name[0]]) for name in ("top", "bottom"))
    if not bottom:
        return None
    value = int(parts.get("whole") or 0) + Fraction(top, bottom)
    return -value if parts["sign"] == "-" else value


def comparison() -> Callable[[str, str], float]:
    """Return Math-Verify's comparison of (gold, answer), for a worker."""
    import logging
    import resource

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.ERROR)  # of answers that cannot be read
    resource.setrlimit(resource.RLIMIT_AS, (MAX_WORKER_BYTES, MAX_WORKER_BYTES))
    notations = (LatexExtractionConfig(), ExprExtractionConfig())

    def parsed(text: str) -> list[Any]:
        # the worker is killed at the limit, so that none of Math-Verify's own is needed
        boxed = f"\\boxed{{{_undollared(text)}}}"
        return list(parse(boxed, extraction_config=notations, parsing_timeout=None))

    def compare(gold: str, answer: str) -> float:
        meant, given = parsed(gold), parsed(answer)
        if not meant:
            raise ValueError(f"{gold!r} cannot be read as mathematics")
        is_same = verify(meant, given, timeout_seconds=None)
        return float(is_same and not _differ(meant[0], given[0]))

    compare("x + 1", "1 + x")  # what is slow the first time is not held against a completion
    return compare


def _differ(gold: Any, answer: Any) -> bool:
    """Return True for two numbers (of sympy) that differ in their first nine digits."""
    from sympy import Expr, N, true

    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    if not (gold.is_number and answer.is_number):
        return False
    gold, answer = gold.doit(), answer.doit()  # percentages are read as products
    differ = abs(N(gold - answer, 30)) > abs(N(gold, 30)) * MAX_RELATIVE_DIFFERENCE
    return bool(differ == true)


def _undollared(text: str) -> str:
    return text.strip().strip("$").removeprefix("\\(").removesuffix("\\)")
