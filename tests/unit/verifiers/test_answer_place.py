"""Read the one answer at its place, or nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout
from rlvr_trainer.verifiers import AnswerPlace, Case, Number

MARKER = AnswerPlace()
BOXED = AnswerPlace("boxed")
TAG = AnswerPlace("tag")
TEXT = AnswerPlace("text")
THOUGHT = AnswerPlace("text", thinking_end="</think>")


@pytest.mark.parametrize(
    ("place", "completion", "answer"),
    [
        (MARKER, "So.\n#### The final answer is 42", "42"),
        (MARKER, "So.\n  #### The final answer is\u00a0Paris \r\nmore", "Paris"),
        (MARKER, "#### The final answer is a\n#### The final answer is a", None),
        (MARKER, "see #### The final answer is a\n#### The final answer is b", "b"),
        (MARKER, "#### The final answer is 1 #### The final answer is 2",
         "1 #### The final answer is 2"),
        (MARKER, "#### The final answer is", None),
        (MARKER, "#### The final answer isn't 42", None),
        (BOXED, r"so \boxed{42}.", "42"),
        (BOXED, r"so \boxed {42}", "42"),
        (BOXED, r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (BOXED, r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (BOXED, r"\boxed{x \} y}", r"x \} y"),
        (BOXED, "\\boxed{\n  4\n}", "4"),
        (BOXED, r"\boxed{41} or \boxed{42}", None),
        (BOXED, r"\boxed{42}, that is \boxed{42}", None),
        (BOXED, r"\boxed{\boxed{42}}", None),
        (BOXED, r"\boxed{42", None),
        (BOXED, r"\boxed{{42}", None),
        (BOXED, r"\boxed 42", None),
        (BOXED, r"\boxed{}", None),
        (BOXED, r"\boxed{ }", None),
        (BOXED, r"\boxedsolution{42}", None),
        (BOXED, "42", None),
        (BOXED, "a \\boxed{1}\nQuestion: b \\boxed{2}", "1"),
        (TAG, "<answer>42</answer>", "42"),
        (TAG, "x <answer>\n42\n</answer> y", "42"),
        (TAG, "<answer>41</answer><answer>42</answer>", None),
        (TAG, "<answer>42</answer></answer>", None),
        (TAG, "<answer>42", None),
        (TAG, "</answer>42<answer>", None),
        (TAG, "<answer> </answer>", None),
        (TAG, "<Answer>42</Answer>", None),
        (TEXT, " Paris\n", "Paris"),
        (TEXT, " \n", None),
        (TEXT, "Paris\nQuestion: And?", "Paris"),
        (THOUGHT, "<think>Rome?</think> Paris", "Paris"),
        (THOUGHT, "<think>Rome?", None),
        (THOUGHT, "Paris", None),
        (THOUGHT, "Rome</think>Paris</think>Oslo", None),
        (AnswerPlace("boxed", thinking_end="</think>"), r"\boxed{1}</think>\boxed{2}", "2"),
        (AnswerPlace("tag", tag="final"), "<final>42</final>", "42"),
    ],
)  # fmt: skip
def test_the_answer_is_the_one_at_its_place(
    place: AnswerPlace, completion: str, answer: str | None
) -> None:
    assert place.read(completion) == answer


PIECES = ["\\boxed", "{", "}", "\\", "<answer>", "</answer>", "#### The final answer is", "\n",
          "</think>", "Question:", " ", "42"]  # fmt: skip
completions = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(completions.map("".join), st.sampled_from([MARKER, BOXED, TAG, TEXT, THOUGHT]))
def test_reading_never_raises_and_gives_a_part_of_the_completion(
    completion: str, place: AnswerPlace
) -> None:
    answer = place.read(completion)
    assert answer is None or (answer and answer in completion)


@settings(max_examples=200, deadline=None)
@given(completions.map("".join), st.sampled_from([MARKER, BOXED, TAG]))
def test_a_second_answer_makes_it_none(completion: str, place: AnswerPlace) -> None:
    second = {"marker": "\n#### The final answer is 7", "boxed": " \\boxed{7}",
              "tag": " <answer>7</answer>"}[place.kind]  # fmt: skip
    if place.read(completion) is not None and "Question:" not in completion:
        assert place.read(completion + second) is None


@pytest.mark.parametrize("piece", [*PIECES, "\\boxed{", "#", "<answer"])
def test_reading_takes_time_linear_in_the_completion(piece: str) -> None:
    text = piece * (99_000 // len(piece))
    start = time.process_time()
    for place in (MARKER, BOXED, TAG, THOUGHT):
        place.read(text)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "prompt",
    [
        ["answer_place=boxed"],
        ["answer_place=tag"],
        ["answer_place=tag", "answer_tag=final"],
        ["answer_place=text"],
        ["answer_place=text", "thinking_end=</think>"],
        ["answer_place=boxed", "thinking_end=</think>"],
        ["answer_marker='Answer {x}:'"],
    ],
)
def test_a_recipe_that_sets_only_the_place_has_a_template_that_agrees(prompt: list[str]) -> None:
    recipe = load_recipe("arithmetic", [f"prompt.{field}" for field in prompt])
    row = Row("train-1", "6 x 7?", "42", "6 x 7 = 42.")
    completion = PromptLayout(recipe.prompt, ()).completion(row)
    assert Number().reward(Case(completion, row.columns), recipe.prompt.place) == 1
