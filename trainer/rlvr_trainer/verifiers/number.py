"""Judge a number: it is right within a tolerance of the gold answer.

Both are read by one grammar:

    42   -5   +5   1,234.50   $18   -$18   $-18   18 €   50%   5 km   12 miles per hour   $18 a day

The grammar:

- **Digits** are ASCII. Other scripts' digits, exponents, fractions and expressions are not numbers.
- **Sign** is kept, `-`, the minus sign or a dash that stands for it; there is at most one,
  before or after the currency.
- **Blanks** are tabs and the spaces of any width, no-break spaces among them.
- **Commas** are removed where they separate thousands (`1,234,567`). `12,34` and `0,123`, which
  elsewhere are decimal fractions, are not numbers.
- **Currency** ($ € £), once, before or after the number, is removed.
- **Percent** is removed, not divided by: `50%` is 50, and so is `50 percent`.
- **Units** are removed, never converted: one word of letters, or `square word`; `per word` or
  `a word` may follow, also without another unit. The text is not a number if a word changes the
  value (`million`, `dozen`, `trillionths`, `two`), is an ordinal (`5th`), or may be a variable or a
  multiplier (`3x`, `5k`, `$5 mm`): words of one or two letters, and of three right after the
  digits, must be in `UNITS`.
- **A full stop** at the end is removed.
- At most 20 digits, so that every number is finite and every comparison exact.

The tolerance is absolute, 1e-3 unless set; with a relative one as well, the wider of them counts.
Only 0 equals 0. Comparisons are exact, in decimal digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Context, Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr_trainer.verifiers.answer_place import BLANKS, STOP, cut_at_stop
from rlvr_trainer.verifiers.answer_place import MAX_CHARACTERS as MAX_COMPLETION_CHARACTERS
from rlvr_trainer.verifiers.verifier import Verifier, shown

TOLERANCE = Decimal("1e-3")

MAX_DIGITS = 20
MAX_CHARACTERS = 120
"""Maximum length of a number with its sign, commas, currency and unit."""

MINUS = "-\u2010\u2011\u2013\u2212\ufe63\uff0d"
CURRENCIES = "$€£"

LETTER_UNITS = "ghlsLCFJVW"
"""Units of one letter; the others are variables (x, n), multipliers (k, m, b, t) or both."""
UNITS = """
    mm cm dm km ft yd mi in mg kg oz lb lbs ml cl dl pt qt gal cc ha ms sec min hr hrs wk wks mo mos
    yr yrs am pm mph kph kmh hz khz mhz ghz kb mb gb tb kw kwh wh hp psi rpm cal mol deg pct ppm pts
    pcs ea usd eur gbp
"""
"""Units of two letters, and those of three that may follow the digits without a blank."""
_UNITS = frozenset(UNITS.split())

_CARDINALS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred thousand myriad dozen score gross lakh lac crore arab kharab googol
"""
_FRACTIONS = """
    third quarter fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
    fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth
    fiftieth sixtieth seventieth eightieth ninetieth hundredth thousandth myriadth dozenth
"""
_OTHERS = """
    sixes twenties thirties forties fifties sixties seventies eighties nineties first firsts half
    halves halved fold once twice thrice double doubled triple tripled quadruple quintuple grand mil
    mill mille mio mln mrd bil bln tril trn thou permil permille pi tau phi sqrt squared cubed
    factorial log exp sin cos tan mod modulo infinity inf nan point times plus minus over by divided
    multiplied negative and or to not per
"""
VALUE_CHANGING_WORDS = frozenset(
    [
        *f"{_CARDINALS} {_FRACTIONS} {_OTHERS}".split(),
        *(f"{word}s" for word in f"{_CARDINALS} {_FRACTIONS}".split()),
        *(f"{word}fold" for word in _CARDINALS.split()),
    ]
)
_SCALES = re.compile(r"[a-z]*illi(on|ard)(th|fold)?s?")
"""Matches `million`, `milliards`, `trillionths`, `zillion` and larger."""

_ASCII = str.maketrans({**dict.fromkeys(BLANKS, " "), **dict.fromkeys(MINUS, "-")})

# Twice the digits of a number, so that a difference is never rounded; not the caller's context,
# which could make it raise.
_EXACT = Context(prec=64)
# A point opens a number (`.5`, `$.50`) unless it ends a word or other points. One class after one
# character cannot backtrack.
_DIGITS = re.compile(r"(?:(?<![\w.,])\.)?[0-9][0-9,.]*")


class Number(Verifier):
    """1 for a number within the tolerance of the gold answer, else 0."""

    verifier: Literal["number"] = "number"
    tolerance: Annotated[float, Field(ge=0)] = float(TOLERANCE)
    """Largest difference to the gold answer."""
    relative_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Largest difference as a share of the gold answer; the wider of the two counts."""

    def gold_problem(self, row: Mapping[str, Any]) -> str:
        """Return a gold answer that is not a number, for a message, or an empty text."""
        answer = row.get("answer")
        if isinstance(answer, str) and parse_gold(answer) is not None:
            return ""
        return f"the answer {shown(answer)}, which is not a number"

    def gold_answer(self, row: Mapping[str, Any]) -> str:
        """Return the gold answer in plain digits."""
        return normalise_answer(row["answer"])

    def is_well_formed(self, answer: str, row: Mapping[str, Any]) -> bool:
        """Return True for a number."""
        return parse_number(answer) is not None

    def judge(self, answer: str, row: Mapping[str, Any]) -> float | None:
        """Return 1 for a number near enough, else 0."""
        gold, value = parse_gold(row["answer"]), parse_number(answer)
        if gold is None:
            return None
        return float(value is not None and is_near(value, gold, self._margin(gold)))

    def show(self, answer: str) -> str:
        """Return the number in plain digits."""
        number = parse_number(answer)
        return answer if number is None else f"{number:f}"

    def is_correct_last(self, completion: str, row: Mapping[str, Any], stop: str) -> bool:
        """Return True if the last number anywhere in the completion is near enough."""
        answer = row.get("answer")
        gold = parse_gold(answer) if isinstance(answer, str) else None
        value = last_number(completion, stop=stop)
        return value is not None and gold is not None and is_near(value, gold, self._margin(gold))

    def _margin(self, gold: Decimal) -> Decimal:
        absolute = _as_written(self.tolerance)
        if not self.relative_tolerance:
            return absolute
        relative = _EXACT.multiply(_EXACT.abs(gold), _as_written(self.relative_tolerance))
        return max(absolute, relative)


@lru_cache(maxsize=4096)
def parse_gold(answer: str) -> Decimal | None:
    """Return the number of a gold answer, or None."""
    return parse_number(answer)


@lru_cache(maxsize=64)
def _as_written(tolerance: float) -> Decimal:
    return Decimal(repr(tolerance))


def is_near(value: Decimal, gold: Decimal, margin: Decimal) -> bool:
    """Return True if two numbers differ by at most `margin`, and both or neither are 0."""
    if bool(value) != bool(gold):
        return False
    return _EXACT.abs(_EXACT.subtract(value, gold)) <= margin


def last_number(completion: str, *, stop: str = STOP) -> Decimal | None:
    """Return the last number anywhere in the completion, for the flexible evaluation."""
    text = cut_at_stop(completion[: MAX_COMPLETION_CHARACTERS + 1], stop)
    for match in reversed(list(_DIGITS.finditer(text))):
        digits = match.group().rstrip(".,")
        # the last item of a list such as `3,4,5` or `1.2.3` counts
        for candidate in (digits, digits.rpartition(",")[2], digits.rpartition(".")[2]):
            number = parse_number(candidate)
            if number is not None:
                signed = candidate == digits and _follows_minus(text, match.start())
                return number.copy_negate() if signed else number
    return None


def _follows_minus(text: str, start: int) -> bool:
    """Return True if the number at `start` has a minus that is a sign, not a subtraction."""
    before = text[max(0, start - 5) : start]
    if before.rstrip(BLANKS).endswith(tuple(CURRENCIES)):
        before = before.rstrip(BLANKS).rstrip(CURRENCIES + "\\")
    return before.endswith(tuple(MINUS)) and not before[-2:-1].isalnum()


def parse_number(text: str) -> Decimal | None:
    """Return the number that `text` consists of under the module's grammar, or None."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.translate(_ASCII).strip(" ").removesuffix(".")
    sign, text = _take(text, "+-")
    currency, text = _take(text, CURRENCIES)
    if currency:
        text = text.lstrip(" ")
        if not sign:
            sign, text = _take(text, "+-")
    end = 0
    while end < len(text) and text[end] in "0123456789,.":
        end += 1
    digits, unit = _plain_digits(text[:end]), text[end:]
    if digits is None or (unit and not _is_removed(unit, has_currency=bool(currency))):
        return None
    return Decimal(("-" if sign == "-" else "") + digits)


def normalise_answer(text: str) -> str:
    """Return a gold answer as plain digits: `$1,234` becomes `1234`.

    Raises ValueError when the text is not a number under the module's grammar.
    """
    number = parse_number(text)
    if number is None:
        raise ValueError(f"{text[:MAX_CHARACTERS]!r} is not a number")
    return f"{number:f}"


def _take(text: str, characters: str) -> tuple[str, str]:
    """Split off the first character, if it is one of `characters`."""
    if text and text[0] in characters:
        return text[0], text[1:]
    return "", text


def _plain_digits(number: str) -> str | None:
    """Return `1,234.5` as `1234.5`; None for wrong commas, points or too many digits."""
    whole, point, fraction = number.partition(".")
    if point and not (fraction.isascii() and fraction.isdigit()):
        return None
    if "," in whole:
        first, *groups = whole.split(",")
        if not 1 <= len(first) <= 3 or first[0] == "0" or any(len(g) != 3 for g in groups):
            return None
        whole = first + "".join(groups)
    if whole and not (whole.isascii() and whole.isdigit()):
        return None
    if not (whole or fraction):
        return None
    if len(whole) + len(fraction) > MAX_DIGITS:
        return None
    return f"{whole or '0'}.{fraction}" if point else whole


def _is_removed(text: str, *, has_currency: bool) -> bool:
    """Return True if the text behind the digits is a currency, percent or unit."""
    mark, rest = _take(text.lstrip(" "), CURRENCIES + "%")
    if mark and has_currency:
        return False
    is_glued = not (mark or text.startswith(" "))
    words = (rest if mark else text).replace("/", " per ", 1).split(" ")
    match ["per" if word in ("a", "an") else word for word in words if word]:
        case [*unit, "per", base] if _is_unit(base):
            pass
        case unit:
            pass
    match unit:
        case []:
            return True
        case [word] if not mark:
            return _is_unit(word, is_glued=is_glued, is_money=has_currency)
        case ["square" | "cubic", word] if not (mark or has_currency):
            return _is_unit(word)
    return False


def _is_unit(word: str, *, is_glued: bool = False, is_money: bool = False) -> bool:
    if not (word.isascii() and word.isalpha()):
        return False
    lower = word.lower()
    if lower in VALUE_CHANGING_WORDS or _SCALES.fullmatch(lower):
        return False
    if len(word) > (3 if is_glued else 2):
        return True
    if is_money:
        return lower in _UNITS and lower != "mm"  # `$5 mm` is five million dollars
    return word in LETTER_UNITS or lower in _UNITS
