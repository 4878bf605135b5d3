"""Test the tasks: their rows, and which rows are usable."""

from __future__ import annotations

import gzip
import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import correctness_reward, format_reward, normalise_answer
from rlvr_trainer.tasks import QuestionAnswer, Row, Split, UnusableRow, load_task
from rlvr_trainer.tasks.prompt import PromptLayout


def recipe(**changes: Any) -> Recipe:
    return parse_recipe({"name": "test", "model": {"name": "embedded:x"}, **changes})


def rows(task: str, split: Split, **changes: Any) -> list[Row]:
    loaded, its_recipe = load_task(task), recipe(task=task, **changes)
    raws = loaded.default_rows(split, its_recipe)
    return [loaded.parse(raw, f"{split}-{index}") for index, raw in enumerate(raws)]


def parse(**columns: Any) -> Row:
    return QuestionAnswer().parse(columns, "train-0")


# --- question-answer


@pytest.mark.parametrize(
    ("answer", "gold"),
    [(42, "42"), (42.5, "42.5"), (1e-5, "0.00001"), ("42", "42"), ("$1,234", "1234"),
     ("6 * 7 = 42\n#### 42", "42"), ("#### -1,000", "-1000")],
)  # fmt: skip
def test_an_answer_is_a_number_or_text_that_ends_in_one(answer: Any, gold: str) -> None:
    assert parse(question="?", answer=answer).answer == gold


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("many", "many"), ("1/2", "1/2"), (True, "true"), ("so #### 5 March", "5 March")],
)
def test_an_answer_that_is_not_a_number_stays_as_it_is(answer: Any, gold: str) -> None:
    assert parse(question="?", answer=answer).answer == gold


def test_worked_text_before_the_final_answer_is_the_solution() -> None:
    assert parse(question="?", answer="6 * 7 = 42\n#### 42").solution == "6 * 7 = 42"
    assert parse(question="?", answer="#### 42", solution="Own.").solution == "Own."
    assert parse(question="?", answer=42).solution == ""


def test_other_columns_are_kept_for_templates_and_rewards() -> None:
    row = parse(question="?", answer=42, topic="sums", id=7)
    assert row.extra == {"topic": "sums", "id": 7}
    assert row.columns == {
        "id": "train-0", "question": "?", "answer": "42", "solution": "", "topic": "sums",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"answer": 42}, "malformed"),
        ({"question": "?"}, "malformed"),
        ({"question": 7, "answer": 42}, "malformed"),
        ({"question": "?", "answer": []}, "empty"),
        ({"question": "?", "answer": {}}, "empty"),
        ({"question": "?", "answer": 42, "solution": 7}, "malformed"),
        ({"question": "\ud800?", "answer": 42}, "malformed"),
        ({"question": " \n", "answer": 42}, "empty"),
        ({"question": "?", "answer": " "}, "empty"),
        ({"question": "?", "answer": "working ####"}, "empty"),
        ({"question": "?", "answer": None}, "empty"),
        ({"question": "?", "answer": "half \ud800"}, "malformed"),
        ({"question": "?", "answer": float("nan")}, "answer-not-a-number"),
        ({"question": "?", "answer": float("inf")}, "answer-not-a-number"),
        ({"question": "?", "answer": 1e300}, "answer-not-a-number"),
        ({"question": "?", "answer": 10**5000}, "answer-not-a-number"),
    ],
)
def test_an_unusable_row_says_why(columns: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        parse(**columns)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("given", "answer", "answers"),
    [
        (["Paris", "City of Light"], "Paris", ["Paris", "City of Light"]),
        ([42], "42", ["42"]),
        ({"name": "Ann"}, '{"name": "Ann"}', None),
        ([{"name": "Ann"}], '[{"name": "Ann"}]', None),
    ],
)
def test_a_list_holds_several_gold_answers_and_a_mapping_is_json(
    given: Any, answer: str, answers: list[str] | None
) -> None:
    row = parse(question="?", answer=given)
    assert (row.answer, row.columns.get("answers")) == (answer, answers)


@pytest.mark.parametrize("answer", ["3x", "5th", "working #### 3x", "5 trillionths"])
def test_an_answer_whose_value_a_suffix_changes_stays_text(answer: str) -> None:
    gold = parse(question="?", answer=answer).answer
    assert gold == answer.removeprefix("working #### ")
    with pytest.raises(ValueError, match="is not a number"):  # so that preparation quarantines it
        normalise_answer(gold)


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (
            {"problem": "?", "answer": 1},
            "no column 'question' among problem, answer; write data.columns: {question: problem}",
        ),
        ({"messages": [], "answer": 1}, "{question: messages}"),
        ({"prompt": "?", "input": "?", "answer": 1}, "{question: prompt} (or input)"),
        ({"problem": "?", "level": 1, "target": 1}, "{question: problem, answer: target}"),
        ({"Question": "?", "answer": 1}, "{question: Question}"),
        ({"quesion": "?", "answer": 1}, "{question: quesion}"),
        ({"question": "?", "target": 1}, "no column 'answer' among question, target"),
        ({"question": "?", "target": 1}, "{answer: target}"),
        ({"question": "?", "final_answer": 1}, "{answer: final_answer}"),
        ({"question": "?", "reward_model": {"ground_truth": 1}}, "reward_model.ground_truth"),
        ({"question": "?", "solution": "6 x 7 = 42 #### 42"}, "{answer: solution}"),
        ({"id": 1, "answer": 1}, "no column 'question' among id, answer"),
    ],
)
def test_a_missing_column_hints_at_similar_ones(columns: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        parse(**columns)
    assert hint in caught.value.detail


def test_question_answer_has_no_rows_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"set data\.train"):
        next(iter(load_task("question-answer").default_rows("train", recipe())))


# --- gsm8k


def test_gsm8k_is_packaged_whole() -> None:
    train, test = rows("gsm8k", "train"), rows("gsm8k", "test")
    assert (len(train), len(test)) == (7473, 1319)
    assert train[0].answer == "72"
    assert train[0].solution.endswith("Natalia sold 48+24 = 72 clips altogether in April and May.")
    assert not any("<<" in row.solution or "####" in row.solution for row in train + test)
    assert all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", row.answer) for row in train + test)


def test_gsm8k_answers_with_commas_are_normalised() -> None:
    raws = list(load_task("gsm8k").default_rows("train", recipe()))
    commas = [i for i, raw in enumerate(raws) if "," in raw["answer"].rpartition("####")[2]]
    train = rows("gsm8k", "train")
    assert len(commas) == 79
    assert not any("," in train[index].answer for index in commas)


def test_a_changed_gsm8k_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gsm8k = importlib.import_module("rlvr_trainer.tasks.gsm8k")
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b'{"question": "?", "answer": "1"}\n'))
    (tmp_path / "test.jsonl.gz").write_bytes(b"not gzip")
    monkeypatch.setattr(gsm8k, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="SHA-256 differs"):
        gsm8k.read_text("train")
    with pytest.raises(DataError, match="cannot be read"):
        gsm8k.read_text("test")


# --- arithmetic


def test_arithmetic_rows_are_decided_by_the_seed() -> None:
    assert rows("arithmetic", "train") == rows("arithmetic", "train")
    assert rows("arithmetic", "train", seed=1) != rows("arithmetic", "train", seed=2)
    assert rows("arithmetic", "test", seed=1) != rows("arithmetic", "test", seed=2)


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_no_test_problem_occurs_in_training_and_none_twice(seed: int) -> None:
    data = {"num_train_rows": 3000, "num_test_rows": 500}
    train = [row.question for row in rows("arithmetic", "train", seed=seed, data=data)]
    test = [row.question for row in rows("arithmetic", "test", seed=seed, data=data)]
    assert (len(train), len(test)) == (3000, 500)
    assert Counter(train + test).most_common(1)[0][1] == 1


def test_the_test_problems_do_not_depend_on_how_many_train() -> None:
    few = rows("arithmetic", "test", data={"num_train_rows": 10})
    assert few == rows("arithmetic", "test", data={"num_train_rows": 1000})


def test_arithmetic_solutions_work_out_their_answers() -> None:
    layout = PromptLayout(recipe().prompt, ())
    signs: Counter[str] = Counter()
    for row in rows("arithmetic", "train"):
        match = re.search(r"has (\d+) ([-+*]) (\d+) = (\d+) ", row.solution)
        assert match
        a, sign, b, result = int(match[1]), match[2], int(match[3]), match[4]
        assert row.answer == result == str({"+": a + b, "-": a - b, "*": a * b}[sign])
        assert a >= b or sign != "-"
        completion = layout.completion(row)
        assert format_reward(completion) == 0.5
        assert correctness_reward(completion, row.answer) == 1.0
        signs[sign] += 1
    assert min(signs.values()) > 500


def test_more_problems_than_there_are_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arithmetic = importlib.import_module("rlvr_trainer.tasks.arithmetic")
    monkeypatch.setattr(arithmetic, "NAMES", ("Tom", "Mia"))
    monkeypatch.setattr(arithmetic, "THINGS", ("pens", "cups"))
    monkeypatch.setattr(arithmetic, "NUMBER_RANGE", (2, 4))
    with pytest.raises(ConfigError, match="too few different problems"):
        rows("arithmetic", "train")


# --- a user's task


def test_a_task_can_be_a_class_in_a_users_file(tmp_path: Path) -> None:
    file = tmp_path / "my_task.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from rlvr_trainer.tasks import QuestionAnswer\n"
        "class Doubles(QuestionAnswer):\n"
        "    def default_rows(self, split, recipe):\n"
        "        for i in range(3): yield {'question': f'2 * {i}?', 'answer': 2 * i}\n",
        "utf-8",
    )
    assert [row.answer for row in rows(f"{file}:Doubles", "train")] == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gsmk8", r"did you mean 'gsm8k'\?"),
        ("json:JSONDecoder", "is not a subclass of"),
        ("json:loads", "is not a subclass of"),
        ("absent/task.py:Task", r"task\.py does not exist"),
        ("rlvr_trainer.tasks:Arithmetics", r"did you mean 'Arithmetic'\?"),
    ],
)
def test_a_task_that_cannot_be_loaded_is_a_configuration_error(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task(spec)
