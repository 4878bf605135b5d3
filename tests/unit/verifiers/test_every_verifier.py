"""Properties of every verifier: never raise, be linear and fast, one answer, symmetric rules."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_trainer.verifiers import (
    VERIFIERS,
    AnswerPlace,
    Case,
    Choice,
    Format,
    Json,
    Length,
    Math,
    Number,
    Regex,
    Tags,
    Text,
    Verifier,
)
from rlvr_trainer.verifiers.answer_place import solution_template
from rlvr_trainer.verifiers.math import decide

PERSON = '{"name": "Ann", "age": 7}'
CITIES = ["Rome", "Paris", "Oslo", "New York"]
SAMPLES: list[tuple[Verifier, dict[str, Any]]] = [
    (Number(), {"answer": "42"}),
    (Number(relative_tolerance=0.01), {"answer": "1,234.5"}),
    (Text(), {"answer": "Paris", "answers": ["Paris", "the City of Light"]}),
    (Text(ignore_accents=True, separator="|"), {"answer": "Zürich|Zurigo"}),
    (Choice(), {"answer": "B", "choices": CITIES}),
    (Choice(), {"answer": "Oslo", "options": {"1": "Rome", "2": "Oslo"}}),
    (Math(), {"answer": "x + 1"}),
    (Regex(pattern=r"\d+(?:\.\d+)*"), {"answer": "1.2.3"}),
    (Json(fields=("age",), json_schema={"type": "object", "required": ["name"]}),
     {"answer": PERSON}),
    (Json(), {"answer": PERSON}),
    (Format(), {"answer": "42"}),
    (Format().of(Choice()), {"answer": "B", "choices": CITIES}),
    (Tags(tags=("answer",)), {"answer": "42"}),
    (Length(free_tokens=10_000, max_tokens=20_000), {"answer": "42"}),
]  # fmt: skip
QUICK = [sample for sample in SAMPLES if not isinstance(sample[0], Math)]
"""Those that judge every answer without a worker."""
PLACES = [AnswerPlace(kind) for kind in ("marker", "boxed", "tag", "text")]  # type: ignore[arg-type]

PIECES = ["#### The final answer is ", "\\boxed{", "}", "<answer>", "</answer>", "\n", "B", "Paris",
          "42", "-", ".", ",", " ", "(", ")", "*", "the ", "{", "[", '"', ":", "\\frac", "1/2", "=",
          "Question:", "\ud800", "٤", "é", "e\u0301"]  # fmt: skip
texts = st.one_of(
    st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))).map("".join)
)


def laid_out(place: AnswerPlace, answer: str) -> str:
    template = solution_template(place.kind, place.marker, place.tag, place.thinking_end)
    return template.format(solution="Working.", answer=answer)


def test_every_verifier_is_sampled() -> None:
    assert {type(verifier) for verifier, _ in SAMPLES} == set(VERIFIERS)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(QUICK), st.sampled_from(PLACES), texts, st.booleans())
def test_a_verifier_never_raises_and_gives_a_number_in_its_range(
    sample: tuple[Verifier, dict[str, Any]], place: AnswerPlace, text: str, is_placed: bool
) -> None:
    verifier, row = sample
    completion = laid_out(place, text) if is_placed else text
    reward = verifier.reward(Case(completion, row), place)
    assert reward is not None
    assert reward <= verifier.best
    assert -1 <= reward <= 1


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([verifier for verifier, _ in SAMPLES]),
    st.one_of(st.none(), st.integers(), texts, st.lists(texts, max_size=3)),
    st.one_of(st.none(), texts, st.lists(texts, max_size=3), st.dictionaries(texts, texts)),
)
def test_a_row_of_any_kind_is_a_problem_or_none_but_never_an_error(
    verifier: Verifier, answer: Any, choices: Any
) -> None:
    row = {"answer": answer, "choices": choices, "answers": choices}
    problem = verifier.gold_problem(row)
    assert isinstance(problem, str)
    if problem or not isinstance(verifier, Math):
        reward = verifier.reward(Case("#### The final answer is 42", row), AnswerPlace())
        assert (reward is None) == bool(problem)


@settings(max_examples=300, deadline=None)
@given(texts, texts)
def test_the_rules_of_math_before_math_verify_never_raise(answer: str, gold: str) -> None:
    assert decide(answer, gold) in (0.0, 1.0, None)
    assert decide(gold, gold) in ((1.0,) if len(gold) <= 2000 else (0.0,))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.kind)
@pytest.mark.parametrize(("verifier", "row"), SAMPLES)
def test_the_gold_answer_earns_the_most_at_every_place(
    verifier: Verifier, row: dict[str, Any], place: AnswerPlace
) -> None:
    if isinstance(verifier, Tags) and place.kind != "tag":
        return
    answer = row["answer"].partition("|")[0]
    assert verifier.reward(Case(laid_out(place, answer), row), place) == verifier.best


@pytest.mark.parametrize("place", PLACES[:3], ids=lambda place: place.kind)
@pytest.mark.parametrize(("verifier", "row"), SAMPLES)
def test_the_gold_answer_beside_a_second_one_earns_nothing(
    verifier: Verifier, row: dict[str, Any], place: AnswerPlace
) -> None:
    if verifier.reads_answer:
        twice = laid_out(place, row["answer"]) + "\n" + laid_out(place, row["answer"])
        assert verifier.reward(Case(twice, row), place) == 0


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([Number(), Text(), Text(ignore_accents=True), Json(), Choice()]), texts, texts
)
def test_the_same_rules_apply_to_answer_and_gold_answer(
    verifier: Verifier, one: str, other: str
) -> None:
    if verifier.gold_problem({"answer": one}) or verifier.gold_problem({"answer": other}):
        return
    assert verifier.judge(one, {"answer": one}) == 1
    assert verifier.judge(one, {"answer": other}) == verifier.judge(other, {"answer": one})


@pytest.mark.parametrize("piece", [*PIECES, "a", "a ", "((", "[{", '{"a":', "the a ", "1,"])
def test_a_verifier_takes_time_linear_in_the_completion(piece: str) -> None:
    text = (piece * (99_000 // len(piece)))[:99_000]
    for verifier, row in SAMPLES:
        for place in PLACES:
            start = time.process_time()
            for completion in (text, laid_out(place, text)):
                verifier.reward(Case(completion, row), place)
            assert time.process_time() - start < 1, (verifier, place.kind)


@pytest.mark.parametrize(("verifier", "row"), QUICK)
def test_completions_a_second_on_one_core(verifier: Verifier, row: dict[str, Any]) -> None:
    place = PLACES[0]
    completion = "Tom has 12 apples and buys 30 more.\n" * 5 + laid_out(place, row["answer"])
    cases = [Case(completion, row)] * 1000
    fastest = float("inf")
    for _ in range(5):
        start = time.process_time()
        verifier.rewards(cases, place)
        fastest = min(fastest, time.process_time() - start)
    # tests/benchmarks/verifiers.py measures above 50,000 on an idle core
    assert len(cases) / fastest > 10_000


def test_a_long_completion_is_penalised_smoothly() -> None:
    verifier = Length(free_tokens=100, max_tokens=200)
    penalties = [
        verifier.reward(Case("", {}, num_tokens=tokens), PLACES[0]) or 0.0
        for tokens in (0, 100, 110, 150, 190, 200, 10_000)
    ]
    assert penalties == pytest.approx([0, 0, -0.0245, -0.5, -0.9755, -1, -1], abs=1e-4)
    estimated = verifier.reward(Case("x" * 540, {}), PLACES[0])  # 3.6 characters a token
    assert estimated == pytest.approx(-0.5)


def test_format_asks_for_the_kind_of_answer_that_is_judged() -> None:
    row = {"answer": "B", "choices": CITIES}
    forms = [Format().of(kind) for kind in (Choice(), Number(), Text())]
    completions = [laid_out(PLACES[0], answer) for answer in ("A", "7", "somewhere")]
    assert [
        [form.reward(Case(completion, row), PLACES[0]) for completion in completions]
        for form in forms
    ] == [[0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0.5]]
