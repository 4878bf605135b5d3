"""Numbers as they stand in an answer line: one grammar for completions and for gold answers.

    42   -5   +5   1,234.50   $18   -$18   $-18   18 €   50%   5 km   12 miles per hour   42.

What is removed, and what is not:

- **Digits** are ASCII. Other scripts' digits, exponents, fractions and expressions are no number.
- **Sign** is kept, `-` or the minus sign; there is one at the most, before or after the currency.
- **Blanks** are spaces, tabs and no-break spaces.
- **Commas** are removed where they separate thousands (`1,234,567`); `12,34` is no number, and
  `0,123` neither, which elsewhere is a decimal fraction.
- **Currency** ($ € £), once, before or after the number, is removed.
- **Percent** is removed, not divided by: `50%` is 50, and so is `50 percent`.
- **Units** are removed, never converted: one word of letters, or `word per word`, or `square word`.
  A word that changes the value (`million`, `dozen`, `k`, `thirds`, `two`) is no unit, and then the
  whole is no number.
- **A full stop** at the end is removed.
- At most 20 digits, so that every number is finite and every comparison exact.
"""

from __future__ import annotations

from decimal import Decimal

MAX_DIGITS = 20
MAX_CHARACTERS = 120
"""Of a number with its sign, commas, currency and unit; longer is no number."""

BLANKS = " \t\r"
CURRENCIES = "$€£"
VALUE_CHANGING_WORDS = frozenset({
    "k", "m", "b", "bn", "mn", "mio", "hundred", "hundreds", "thousand", "thousands", "million",
    "millions", "billion", "billions", "trillion", "trillions", "quadrillion", "dozen", "dozens",
    "score", "scores", "gross", "pi", "e", "times", "squared", "cubed", "factorial", "half",
    "halves", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths",
    "sixth", "sixths", "seventh", "sevenths", "eighth", "eighths", "ninth", "ninths", "tenth",
    "tenths", "hundredth", "hundredths", "thousandth", "thousandths", "millionth", "millionths",
    "billionth", "billionths", "grand", "mil", "mill", "mille", "bil", "tril", "lakh", "lakhs",
    "lac", "lacs", "crore", "crores", "tens", "point", "plus", "minus", "over", "or", "and", "to",
    "not", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
})  # fmt: skip
_ASCII = str.maketrans({"\N{MINUS SIGN}": "-", "\N{NO-BREAK SPACE}": " ",
                        "\N{NARROW NO-BREAK SPACE}": " "})  # fmt: skip


def parse_number(text: str) -> Decimal | None:
    """The number that `text` consists of under the module's grammar, or None."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.translate(_ASCII).strip(BLANKS)
    text = text.removesuffix(".")
    sign, text = _take(text, "+-")
    currency, text = _take(text, CURRENCIES)
    if currency:
        text = text.lstrip(BLANKS)
        if not sign:
            sign, text = _take(text, "+-")
    end = 0
    while end < len(text) and text[end] in "0123456789,.":
        end += 1
    number, suffix = text[:end], text[end:].strip(BLANKS)
    if suffix and not _is_removed(suffix, has_currency=bool(currency)):
        return None
    digits = _plain_digits(number)
    return None if digits is None else Decimal(("-" if sign == "-" else "") + digits)


def normalise_answer(text: str) -> str:
    """A gold answer as plain digits: `$1,234` becomes `1234`.

    Raises ValueError when the text is not a number under the module's grammar.
    """
    number = parse_number(text)
    if number is None:
        raise ValueError(f"{text[:MAX_CHARACTERS]!r} is not a number")
    return f"{number:f}"


def _take(text: str, characters: str) -> tuple[str, str]:
    """The first character, if it is one of `characters`, and the rest."""
    if text and text[0] in characters:
        return text[0], text[1:]
    return "", text


def _plain_digits(number: str) -> str | None:
    """`1,234.5` as `1234.5`; None for wrong commas, points or too many digits."""
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


def _is_removed(suffix: str, *, has_currency: bool) -> bool:
    if suffix == "%" or suffix in tuple(CURRENCIES):
        return not has_currency
    words = suffix.lower().replace("/", " per ", 1).split(" ")
    if not all(word.isascii() and word.isalpha() for word in words):
        return False
    if VALUE_CHANGING_WORDS.intersection(words):
        return False
    match words:
        case [_] | [_, "per", _] | ["square" | "cubic", _]:
            return True
        case _:
            return False
