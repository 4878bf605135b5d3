"""Gold answers in plain digits."""

from __future__ import annotations

import pytest

from rlvr_trainer.rewards import normalise_answer


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("42", "42"),
        (" 1,234 ", "1234"),
        ("$18", "18"),
        ("-$1,000.25", "-1000.25"),
        ("+5", "5"),
        (".5", "0.5"),
        ("7.", "7"),
        ("5%", "5"),
        ("\N{MINUS SIGN}5", "-5"),
        ("5\N{NO-BREAK SPACE}km", "5"),
        ("5 pairs", "5"),
    ],
)
def test_a_gold_answer_loses_commas_and_currency(text: str, normalised: str) -> None:
    assert normalise_answer(text) == normalised


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "$",
        "1 2",
        "seven",
        "1,2",
        "5..",
        "1.2.3",
        "0,5",
        "5 grand",
        "5 mil",
        "5 lakh",
        "5 tens",
        "5 zero",
        "5 or",
    ],
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        normalise_answer(text)
