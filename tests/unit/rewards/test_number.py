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
        ("5km", "5"),
        ("5 ft", "5"),
        ("5 C", "5"),
        ("50apples", "50"),
        ("5 men", "5"),
        ("5USD", "5"),
        ("5 months", "5"),
        ("5 seconds", "5"),
        ("5 per cent", "5"),
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
        "3x",
        "3 x",
        "3y",
        "3xy",
        "2abc",
        "2i",
        "5th",
        "1st",
        "22nd",
        "5 th",
        "5T",
        "$5MM",
        "$5 g",
        "5 myriad",
        "5 trillionths",
        "5 Quintillion",
        "5 centillionth",
        "5 milliards",
        "5 zillion",
        "5 twelfths",
        "5 twentieths",
        "5 dozenth",
        "5 gross",
        "5 crores",
        "5 half",
        "5 permille",
        "5 tenfold",
        "5 twice",
        "5 per million",
    ],
)
def test_text_that_is_not_a_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        normalise_answer(text)
