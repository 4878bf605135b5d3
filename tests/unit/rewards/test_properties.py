"""Properties of the rewards over all texts, on adversarial lengths, and over all of GSM8K."""

from __future__ import annotations

import subprocess
import sys
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_trainer.recipe.schema import PromptSection
from rlvr_trainer.rewards import (
    correctness_reward,
    cut_at_stop,
    extract_answer,
    format_reward,
    last_number,
    normalise_answer,
)
from rlvr_trainer.tasks import GSM8K, Split
from rlvr_trainer.tasks.prompt import PromptLayout

MARKER = "#### The final answer is"
PIECES = [MARKER, "Question:", "\n", "\r\n", " ", "$", "-", ",", ".", "%", "1", "234", "٣", "k"]
adversarial = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=30).map("".join),
    st.text(max_size=12).map(lambda text: f"x\n{MARKER} {text}"),
)
numbers = st.decimals(
    min_value=-(10**9), max_value=10**9, allow_nan=False, allow_infinity=False, places=2
)


@settings(max_examples=500, deadline=None)
@given(adversarial, adversarial)
def test_rewards_never_raise_and_give_only_their_two_values(completion: str, answer: str) -> None:
    assert format_reward(completion) in (0.0, 0.5)
    assert correctness_reward(completion, "42") in (0.0, 1.0)
    assert correctness_reward(completion, answer) in (0.0, 1.0, None)
    number = last_number(completion)
    assert number is None or number.is_finite()


@settings(max_examples=200, deadline=None)
@given(adversarial)
def test_no_completion_is_correct_without_being_well_formed(completion: str) -> None:
    answer = extract_answer(completion)
    assert (answer is None) == (format_reward(completion) == 0.0)
    if answer is not None:
        assert correctness_reward(completion, answer) == 1.0
        assert extract_answer(cut_at_stop(completion)) == answer


@settings(max_examples=200, deadline=None)
@given(numbers, st.booleans(), st.sampled_from(["", "$", "€"]), st.sampled_from(["", ".", " kg"]))
def test_a_number_is_read_back_however_it_is_dressed(
    number: Decimal, commas: bool, currency: str, suffix: str
) -> None:
    sign, digits = ("-" if number < 0 else ""), f"{abs(number):{',' if commas else ''}f}"
    completion = f"Working.\n{MARKER} {sign}{currency}{digits}{suffix}"
    assert correctness_reward(completion, normalise_answer(str(f"{number:f}"))) == 1.0


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["", "-", "+", "\N{MINUS SIGN}", "\N{EN DASH}"]),
    st.sampled_from(["", "$", "\N{EURO SIGN} ", "\N{POUND SIGN}\N{NO-BREAK SPACE}"]),
    st.booleans(),
    st.sampled_from([".5", "0.5", "5.", "5", "1,234.50", "12", "007", "0"]),
    st.sampled_from(["", " ", ".", " per day", " km/h", "%", "kg", "!", "x", " million"]),
)
def test_where_the_strict_reading_sees_a_number_the_flexible_one_sees_the_same(
    sign: str, currency: str, sign_first: bool, digits: str, suffix: str
) -> None:
    dressed = (f"{sign}{currency}" if sign_first else f"{currency}{sign}") + digits + suffix
    completion = f"Of 7 and 8:\n{MARKER} {dressed}"
    strict, flexible = extract_answer(completion), last_number(completion)
    assert strict is None or Decimal(strict) == flexible


@settings(max_examples=100, deadline=None)
@given(adversarial, st.integers(0, 999))
def test_a_second_answer_line_earns_nothing(between: str, second: int) -> None:
    completion = f"{MARKER} 42\n{cut_at_stop(between)}\n{MARKER} {second}"
    assert format_reward(completion) == 0.0
    assert correctness_reward(completion, "42") == 0.0


@pytest.mark.parametrize(
    "piece",
    ["#", "#### ", MARKER, f"{MARKER} ", f"\n{MARKER}", "\n", " ", "1", "1,", "1,111,", "-", "$",
     "Question:", "\nQuestion", "1 ", "٣", "9.", "\r"],
)  # fmt: skip
def test_time_is_linear_in_the_length_of_a_completion(piece: str) -> None:
    def seconds(length: int) -> float:
        text = f"x\n{MARKER} " + piece * (length // len(piece))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            format_reward(text)
            correctness_reward(text, "42")
            last_number(text)
            best = min(best, time.process_time() - start)
        return best

    # Eight times the length: a quadratic function would take 64 times as long.
    assert seconds(96_000) < 24 * seconds(12_000) + 2e-3


@pytest.mark.parametrize(("split", "num_rows"), [("train", 7473), ("test", 1319)])
def test_every_gold_answer_of_gsm8k_laid_out_as_a_completion_scores_full_marks(
    split: Split, num_rows: int
) -> None:
    task, layout = GSM8K(), PromptLayout(PromptSection(), ())
    scores = []
    for index, raw in enumerate(task.default_rows(split, None)):  # type: ignore[arg-type]
        row = task.parse(raw, f"{split}-{index}")
        completion = layout.completion(row)
        scores.append((format_reward(completion), correctness_reward(completion, row.answer)))
    assert scores == [(0.5, 1.0)] * num_rows


def test_fifty_thousand_completions_a_second_on_one_core() -> None:
    completion = "Tom has 12 apples and buys 30 more, 12 + 30 = 42 in all.\n" * 5 + f"{MARKER} 42\n"
    fastest = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(2000):
            format_reward(completion)
            correctness_reward(completion, "42")
        fastest = min(fastest, time.process_time() - start)
    # Both rewards: above 100,000 on an idle machine; half of the target on a busy one.
    assert 2000 / fastest > 25_000


def test_rewards_import_no_heavy_library() -> None:
    code = (
        "import sys, rlvr_trainer.rewards\n"
        "heavy = {'torch', 'yaml', 'numpy', 'sympy', 'jsonschema', 'trl'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} imported' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
