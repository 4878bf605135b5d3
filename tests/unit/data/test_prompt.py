"""The layout of rows as prompts."""

from __future__ import annotations

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import PromptSection
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout

EXEMPLARS = [
    Row("train-1", "1 + 1?", "2", "1 + 1 = 2."),
    Row("train-2", "2 + 2?", "4", "2 + 2 = 4."),
]
ROW = Row("train-3", "3 + 3?", "6", "3 + 3 = 6.", {"topic": "sums"})


def test_a_prompt_is_the_worked_examples_and_then_the_question() -> None:
    layout = PromptLayout(PromptSection(num_shots=2), EXEMPLARS)
    assert layout.prompt(ROW) == (
        "Question: 1 + 1?\nSolution: 1 + 1 = 2.\n#### The final answer is 2\n\n"
        "Question: 2 + 2?\nSolution: 2 + 2 = 4.\n#### The final answer is 4\n\n"
        "Question: 3 + 3?\nSolution:"
    )


def test_a_header_of_fewer_shots_is_the_beginning_of_one_of_more() -> None:
    layout = PromptLayout(PromptSection(), EXEMPLARS)
    assert layout.header(0) == ""
    assert layout.header(2).startswith(layout.header(1))
    assert layout.prompt(ROW, 1) == layout.header(1) + layout.prompt(ROW, 0)


def test_more_shots_than_exemplars_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 shots, but there are 2 exemplars"):
        PromptLayout(PromptSection(), EXEMPLARS).header(3)


def test_templates_use_any_column_of_the_row() -> None:
    prompt = PromptSection(num_shots=0, question_template="[{topic}] {question} =")
    assert PromptLayout(prompt, ()).prompt(ROW) == "[sums] 3 + 3? ="


def test_braces_in_the_data_stay_as_they_are() -> None:
    row = Row("train-4", "What is {answer} in {}?", "1", "A set {1, 2}.")
    layout = PromptLayout(PromptSection(num_shots=1), [row])
    assert "Question: What is {answer} in {}?\nSolution: A set {1, 2}." in layout.header()


def test_an_unknown_column_is_named_with_those_there_are() -> None:
    layout = PromptLayout(PromptSection(question_template="{question} {topics}"), ())
    with pytest.raises(ConfigError, match=r"'topics'.*answer, id, question, solution, topic"):
        layout.prompt(ROW, 0)


@pytest.mark.parametrize("template", ["{question} {", "{question} {}", "{question} {answer:d}"])
def test_what_is_no_template_is_a_configuration_error(template: str) -> None:
    with pytest.raises(ConfigError, match=r"prompt\.question_template"):
        PromptLayout(PromptSection(question_template=template), ()).prompt(ROW, 0)
