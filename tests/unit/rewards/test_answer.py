"""The rewards of completions, including attacks."""

from __future__ import annotations

import inspect
from decimal import Decimal, Inexact, Rounded, localcontext

import pytest

from rlvr_trainer.rewards import (
    correctness_reward,
    cut_at_stop,
    extract_answer,
    format_reward,
    is_correct_number,
    last_number,
)

MARKER = "#### The final answer is"


def line(answer: str) -> str:
    return f"Some working.\n{MARKER} {answer}"


def rewards(completion: str, gold: str = "42") -> tuple[float | None, float | None]:
    return format_reward(completion), correctness_reward(completion, gold)


def test_the_public_signatures_need_only_a_completion_and_an_answer() -> None:
    required = inspect.Parameter.empty
    for function, names in ((format_reward, ["completion"]),
                            (correctness_reward, ["completion", "answer"])):  # fmt: skip
        parameters = inspect.signature(function).parameters.values()
        assert [item.name for item in parameters if item.default is required] == names


@pytest.mark.parametrize(
    ("completion", "gold", "expected"),
    [
        # right and wrong
        (line("42"), "42", (0.5, 1.0)),
        (line("41"), "42", (0.5, 0.0)),
        ("42", "42", (0.0, 0.0)),
        ("", "42", (0.0, 0.0)),
        (f"{MARKER} 42", "42", (0.5, 1.0)),
        (f"Working.\r\n{MARKER} 42\r\n", "42", (0.5, 1.0)),
        # tolerance
        (line("42.0"), "42", (0.5, 1.0)),
        (line("42.0009"), "42", (0.5, 1.0)),
        (line("42.002"), "42", (0.5, 0.0)),
        # the sign counts
        (line("-5"), "5", (0.5, 0.0)),
        (line("-5"), "-5", (0.5, 1.0)),
        (line("5"), "-5", (0.5, 0.0)),
        (line("-$5"), "-5", (0.5, 1.0)),
        (line("$-5"), "-5", (0.5, 1.0)),
        (line("--5"), "5", (0.0, 0.0)),
        # commas only where thousands end
        (line("1,234"), "1234", (0.5, 1.0)),
        (line("1234"), "1,234", (0.5, 1.0)),
        (line("1,234,567.5"), "1234567.5", (0.5, 1.0)),
        (line("12,34"), "1234", (0.0, 0.0)),
        (line("1,2345"), "12345", (0.0, 0.0)),
        (line(",123"), "123", (0.0, 0.0)),
        (line("0,123"), "123", (0.0, 0.0)),
        # currency, percent and units are removed, not converted
        (line("$42"), "42", (0.5, 1.0)),
        (line("42 €"), "42", (0.5, 1.0)),
        (line("42%"), "42", (0.5, 1.0)),
        (line("42%"), "0.42", (0.5, 0.0)),
        (line("42 percent"), "42", (0.5, 1.0)),
        (line("42 apples."), "42", (0.5, 1.0)),
        (line("42 miles per hour"), "42", (0.5, 1.0)),
        (line("42 square feet"), "42", (0.5, 1.0)),
        (line("42 million"), "42", (0.0, 0.0)),
        (line("42k"), "42", (0.0, 0.0)),
        (line("42 thirds"), "42", (0.0, 0.0)),
        # a rate of money as of anything else
        (line("$18 per day"), "18", (0.5, 1.0)),
        (line("18 dollars per day"), "18", (0.5, 1.0)),
        (line("$18/day"), "18", (0.5, 1.0)),
        (line("$18 a day"), "18", (0.5, 1.0)),
        (line("18 € per day"), "18", (0.5, 1.0)),
        (line("5% per year"), "5", (0.5, 1.0)),
        (line("18 per day"), "18", (0.5, 1.0)),
        (line("60 miles an hour"), "60", (0.5, 1.0)),
        (line("$18 per dozen"), "18", (0.0, 0.0)),
        (line("$18 per"), "18", (0.0, 0.0)),
        (line("$$18 per day"), "18", (0.0, 0.0)),
        (line("$18€ per day"), "18", (0.0, 0.0)),
        # a blank is a tab or a space of any width, right after the marker too
        (f"{MARKER}\u00a042", "42", (0.5, 1.0)),
        (f"{MARKER}\t42", "42", (0.5, 1.0)),
        (f"{MARKER}\u3000$\u20095\u202fper\u00a0 day\u2003", "5", (0.5, 1.0)),
        (f"\u00a0{MARKER} 42\u00a0", "42", (0.5, 1.0)),
        (f"{MARKER} 42\u2028km", "42", (0.0, 0.0)),
        (f"{MARKER}\u200b42", "42", (0.0, 0.0)),
        # a dash may stand for the minus sign
        (line("\u20135"), "-5", (0.5, 1.0)),
        (line("\uff0d5"), "5", (0.5, 0.0)),
        (line("3\u20135"), "5", (0.0, 0.0)),
        # other digits, notations and expressions are not numbers
        (line("٤٢"), "42", (0.0, 0.0)),
        (line("４２"), "42", (0.0, 0.0)),
        (line("4²"), "42", (0.0, 0.0)),
        (line("42e0"), "42", (0.0, 0.0)),
        (line("0x2a"), "42", (0.0, 0.0)),
        (line("4_2"), "42", (0.0, 0.0)),
        (line("84/2"), "42", (0.0, 0.0)),
        (line("40 + 2"), "42", (0.0, 0.0)),
        (line("nan"), "42", (0.0, 0.0)),
        (line("inf"), "42", (0.0, 0.0)),
        (line("forty-two"), "42", (0.0, 0.0)),
        (line(""), "42", (0.0, 0.0)),
        # several answers are none
        (line("42") + f"\n{MARKER} 43", "42", (0.0, 0.0)),
        (line("41") + f"\n{MARKER} 42", "42", (0.0, 0.0)),
        (line("42") + f"\n{MARKER} 42", "42", (0.0, 0.0)),
        (line("42") + f"\n  {MARKER} 42", "42", (0.0, 0.0)),
        (line("42") + f"\n{MARKER} unknown", "42", (0.0, 0.0)),
        (line("41 or 42"), "42", (0.0, 0.0)),
        (line("41, 42"), "42", (0.0, 0.0)),
        (line(f"41 {MARKER} 42"), "42", (0.0, 0.0)),
        # the marker is verified to the letter, on a line of its own
        (f"So {MARKER} 42", "42", (0.0, 0.0)),
        ("#### 42", "42", (0.0, 0.0)),
        ("#### the final answer is 42", "42", (0.0, 0.0)),
        (f"{MARKER}42", "42", (0.0, 0.0)),
        (f"{MARKER}: 42", "42", (0.0, 0.0)),
        (f"{MARKER}\n42", "42", (0.0, 0.0)),
        (f"#{MARKER} 42", "42", (0.0, 0.0)),
        (f"So\u2028{MARKER} 42", "42", (0.0, 0.0)),
        # the tolerance is absolute, and 0 is near nothing else
        (line("0.3335"), "0.333", (0.5, 1.0)),
        (line("0.334"), "0.333", (0.5, 1.0)),
        (line("0.3341"), "0.333", (0.5, 0.0)),
        (line("0.001"), "0.0005", (0.5, 1.0)),
        (line("1000.001"), "1000", (0.5, 1.0)),
        (line("1000.0011"), "1000", (0.5, 0.0)),
        (line("0.000"), "0", (0.5, 1.0)),
        (line("-0"), "0", (0.5, 1.0)),
        (line("0"), "0.0005", (0.5, 0.0)),
        (line("0.0005"), "0.0005", (0.5, 1.0)),
        (line("0.0001"), "0", (0.5, 0.0)),
        # what follows the answer does not hurt; a run-on next question is never read
        (line("42") + "\n" + "x" * 400, "42", (0.5, 1.0)),
        (line("42") + f"\n\nQuestion: And now?\nSolution: {MARKER} 7", "42", (0.5, 1.0)),
        (line("42") + f"\n\nQuestion: And now?\n{MARKER} 7", "42", (0.5, 1.0)),
        (f"Hm.\nQuestion: And now?\n{MARKER} 42", "42", (0.0, 0.0)),
        (f"Question: And now?\n{MARKER} 42", "42", (0.0, 0.0)),
        # long numbers
        (line("9" * 20), "9" * 20, (0.5, 1.0)),
        (line("9" * 21), "42", (0.0, 0.0)),
        (line("9" * 5000), "42", (0.0, 0.0)),
        (line("0." + "0" * 25), "0", (0.0, 0.0)),
    ],
)
def test_a_completion_earns(completion: str, gold: str, expected: tuple[float, float]) -> None:
    assert rewards(completion, gold) == expected


@pytest.mark.parametrize("gold", ["", "forty-two", "1/2", "nan", "9" * 21, "4 or 5", "12,34"])
def test_a_gold_answer_that_is_no_number_is_the_verifiers_failure(gold: str) -> None:
    assert correctness_reward(line("42"), gold) is None


def test_neighbours_of_twenty_digits_are_told_apart() -> None:
    assert correctness_reward(line("99999999999999999998"), "99999999999999999999") == 0.0


def test_the_callers_decimal_context_changes_nothing() -> None:
    with localcontext() as context:
        context.prec = 2
        context.traps[Inexact] = context.traps[Rounded] = True
        assert rewards(line("1,234.5678"), "1234.5678") == (0.5, 1.0)
        assert rewards(line("9" * 20), "0." + "0" * 18 + "1") == (0.5, 0.0)
        assert extract_answer(line("-1234.5678")) == "-1234.5678"
        assert last_number("-1234.5678") == Decimal("-1234.5678")


def test_a_completion_beyond_the_length_cap_earns_nothing() -> None:
    padding = "x" * 100_000 + "\n"
    assert rewards(padding + line("42")) == (0.0, 0.0)
    assert rewards(line("42") + "\n" + padding) == (0.0, 0.0)


def test_a_long_run_on_after_the_stop_marker_is_not_held_against_the_answer() -> None:
    assert rewards(line("42") + "\nQuestion: " + "x" * 1_000_000) == (0.5, 1.0)


def test_marker_and_stop_can_be_the_users() -> None:
    completion = "6 * 7\nAnswer: 42\nQ: next\nAnswer: 7"
    assert format_reward(completion, marker="Answer:", stop="Q:") == 0.5
    assert correctness_reward(completion, "42", marker="Answer:", stop="Q:") == 1.0
    assert correctness_reward("answer=42", "42", marker="answer=") == 1.0
    assert correctness_reward(line("43"), "42", tolerance=Decimal(1)) == 1.0


def test_the_verifier_says_what_it_saw() -> None:
    assert extract_answer(line("-$1,234.50")) == "-1234.50"
    assert extract_answer(line("forty-two")) is None
    assert extract_answer("42") is None


def test_a_completion_ends_before_the_line_of_the_stop_marker() -> None:
    assert cut_at_stop("a\nQuestion: b") == "a"
    assert cut_at_stop("a\n\nQuestion: b\nQuestion: c") == "a\n"
    assert cut_at_stop("The Question: b") == "The Question: b"
    assert cut_at_stop("Question: b") == ""
    assert cut_at_stop("a\nQ: b", "Q:") == "a"


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        ("It is 42.", "42"),
        ("First 7, then 42 apples", "42"),
        ("a total of $1,234.50!", "1234.50"),
        ("x = -3", "-3"),
        ("-$5", "-5"),
        ("8-3", "3"),
        ("3,4,5", "5"),
        ("42\nQuestion: 7", "42"),
        ("٤٢", None),
        ("none", None),
        ("9" * 5000, None),
        ("It is .5", "0.5"),
        ("x=.5.", "0.5"),
        ("$.50", "0.50"),
        ("-$.50", "-0.50"),
        ("(\\$.50)", "0.50"),
        (".5,.6", "0.6"),
        ("so it is.5", "5"),
        ("let me see...5", "5"),
        ("x = \N{EN DASH}5", "-5"),
        ("x = -$ 5", "-5"),
        ("2020\N{EN DASH}24", "24"),
        ("8 - 3", "3"),
        ("72 clips, altogether.", "72"),
    ],
)
def test_the_flexible_reading_takes_the_last_number(completion: str, number: str | None) -> None:
    assert last_number(completion) == (None if number is None else Decimal(number))


def test_a_flexible_number_is_compared_with_the_gold_answer() -> None:
    assert is_correct_number(Decimal("1234.0"), "$1,234")
    assert not is_correct_number(Decimal("-5"), "5")
    assert not is_correct_number(None, "5")
