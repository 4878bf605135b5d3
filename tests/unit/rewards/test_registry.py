"""The rewards of a recipe, ours and the user's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import build_judge, build_rewards, first_failure, score
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout
from rlvr_trainer.tasks.reward_trial import try_rewards

RIGHT = "Working.\n#### The final answer is 42"
ROW = {"id": "train-0", "question": "6 * 7?", "answer": "42", "topic": "products"}


def recipe(**changes: Any) -> Recipe:
    return parse_recipe({"name": "test", "model": {"name": "embedded:x"}, **changes})


def user_rewards(folder: Path, source: str, name: str = "mine") -> Recipe:
    file = folder / "my_rewards.py"
    file.write_text(source, "utf-8")
    return recipe(rewards={name: {"function": f"{file}:{name}"}})


def test_a_recipe_has_format_and_correctness() -> None:
    verifiers = build_rewards(recipe())
    assert list(verifiers) == ["format", "correctness"]
    assert score(verifiers, RIGHT, ROW) == {"format": 0.5, "correctness": 1.0}
    assert score(verifiers, "42", ROW) == {"format": 0.0, "correctness": 0.0}


def test_rewards_are_bound_to_the_recipes_marker_and_stop() -> None:
    prompt = {"answer_marker": "A:", "stop": "Q:", "solution_template": " A: {answer}"}
    verifiers = build_rewards(recipe(prompt=prompt))
    assert score(verifiers, "A: 42\nQ: next\nA: 7", ROW) == {"format": 0.5, "correctness": 1.0}
    assert score(verifiers, RIGHT, ROW) == {"format": 0.0, "correctness": 0.0}


@pytest.mark.parametrize("row", [{}, {"answer": "unknown"}, {"answer": None}, {"answer": 42}])
def test_a_row_without_a_gold_number_is_scored_by_no_reward(row: dict[str, Any]) -> None:
    assert score(build_rewards(recipe()), RIGHT, row) is None


def test_a_users_function_sees_the_completion_and_the_rows_columns(tmp_path: Path) -> None:
    mine = user_rewards(tmp_path, "def mine(completion, row): return row['topic'] in completion")
    verifiers = build_rewards(mine)
    assert score(verifiers, "on products", ROW) == {"mine": 1.0}
    assert score(verifiers, "on sums", ROW) == {"mine": 0.0}


@pytest.fixture
def neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write two folders, each with a reward that imports its own neighbour of the same name."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for number, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbour_of_mine.py").write_text(f"VALUE = {number}")
        (tmp_path / folder / "mine.py").write_text(
            "def mine(completion, row):\n    import neighbour_of_mine\n"
            "    return neighbour_of_mine.VALUE\n"
            if folder == "one"
            else "from neighbour_of_mine import VALUE\ndef mine(completion, row): return VALUE\n"
        )
    yield tmp_path
    sys.modules.pop("neighbour_of_mine", None)


def test_a_users_file_may_import_its_neighbour(neighbours: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        sys.modules.pop("neighbour_of_mine", None)
        sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(neighbours))]
        mine = recipe(rewards={"mine": {"function": f"{neighbours}/{folder}/mine.py:mine"}})
        assert score(build_rewards(mine), "", ROW) == {"mine": float(number)}


def test_a_neighbour_of_another_file_is_not_taken_for_its_own(neighbours: Path) -> None:
    one, two = (
        recipe(rewards={"mine": {"function": f"{neighbours}/{folder}/mine.py:mine"}})
        for folder in ("one", "two")
    )
    score(build_rewards(one), "", ROW)
    with pytest.raises(
        ConfigError, match=r"imports 'neighbour_of_mine' from .*/one/.*, not .*/two"
    ):
        build_rewards(two)


def test_a_users_function_can_come_from_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_reward_module.py").write_text("def one(completion, row): return 1", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    verifiers = build_rewards(recipe(rewards={"one": {"function": "my_reward_module:one"}}))
    assert score(verifiers, "", ROW) == {"one": 1.0}


@pytest.mark.parametrize(
    "body",
    ["raise KeyError('topic')", "return float('nan')", "return float('inf')", "return 'high'",
     "return [1]", "import sys; sys.exit(3)", "return mine(completion, row)", "return None",
     "return (1.0, 'because')", "return 10**400", "return b'1'"],
)  # fmt: skip
def test_a_users_failing_function_gives_none_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    verify = build_rewards(user_rewards(tmp_path, f"def mine(completion, row): {body}"))["mine"]
    with caplog.at_level(logging.WARNING):
        assert [verify(RIGHT, ROW) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "my_rewards.py:mine" in caplog.text


def test_a_reward_that_changes_its_row_leaves_the_others_theirs(tmp_path: Path) -> None:
    (tmp_path / "pops.py").write_text("def pops(completion, row): return len(row.pop('answer'))")
    pops = {"pops": {"function": f"{tmp_path}/pops.py:pops"}, "correctness": {}}
    rewards = build_rewards(recipe(rewards=pops))
    assert score(rewards, RIGHT, ROW) == {"pops": 2.0, "correctness": 1.0}


def test_a_failure_of_one_reward_takes_the_completion_from_all(tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text("def fails(completion, row): raise RuntimeError", "utf-8")
    verifiers = build_rewards(
        recipe(rewards={"format": {}, "fails": {"function": f"{file}:fails"}})
    )
    assert score(verifiers, RIGHT, ROW) is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("{folder}/absent.py:mine", "absent.py does not exist"),
        ("{folder}/good.py:mine", r"has no 'mine' \(did you mean 'mind'\?\)"),
        ("{folder}/good.py:number", "is a int, not a function"),
        ("{folder}/broken.py:mine", "raises SyntaxError"),
        ("{folder}/raises.py:mine", "raises ZeroDivisionError"),
        ("no_such_package.rewards:mine", "module 'no_such_package' is not installed"),
        ("json:mine", "json has no 'mine'"),
        ("just_a_name", "does not name code"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_a_configuration_error(
    tmp_path: Path, function: str, message: str
) -> None:
    (tmp_path / "good.py").write_text("def mind(completion, row): return 1\nnumber = 1", "utf-8")
    (tmp_path / "broken.py").write_text("def mine(", "utf-8")
    (tmp_path / "raises.py").write_text("1 / 0", "utf-8")
    mine = recipe(rewards={"mine": {"function": function.format(folder=tmp_path)}})
    with pytest.raises(ConfigError, match=message) as caught:
        build_rewards(mine)
    assert "rewards.mine.function" in str(caught.value)


BROKEN = [
    ("raise KeyError('topic')", "raised KeyError: 'topic'"),
    ("return None", "returned None, not a finite number"),
    ("return 'high'", "returned 'high', a str, not a finite number"),
    ("return float('nan')", "returned nan, not a finite number"),
    ("return (1.0, 'so')", "returned (1.0, 'so'), a tuple, not a finite number"),
    ("return [1.0]", "returned [1.0], a list, not a finite number"),
]


def rows(*answers: str) -> list[Row]:
    return [Row(f"train-{n}", f"{n}?", answer) for n, answer in enumerate(answers)]


def try_on(recipe: Recipe, tried: list[Row]) -> None:
    try_rewards(build_rewards(recipe), PromptLayout(recipe.prompt, ()), tried)


@pytest.mark.parametrize(("body", "reason"), BROKEN)
def test_a_broken_reward_is_found_on_gold_completions_with_its_row_function_and_cause(
    tmp_path: Path, body: str, reason: str
) -> None:
    mine = user_rewards(tmp_path, f"def mine(completion, row): {body}")
    with pytest.raises(ConfigError) as caught:
        try_on(mine, rows("5", "6"))
    message = str(caught.value)
    assert f"rewards.mine.function: {tmp_path}/my_rewards.py:mine {reason}" in message
    assert "row train-0" in message
    assert "returns a number" in message


def test_a_reward_with_other_arguments_is_found_before_it_is_needed(tmp_path: Path) -> None:
    source = "def mine(answers, **kwargs): return [0.0 for _ in answers]"
    with pytest.raises(ConfigError, match=r"raised TypeError: mine\(\) takes 1 positional"):
        try_on(user_rewards(tmp_path, source), rows("5"))


def test_ours_on_answers_that_are_not_numbers_is_found_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rewards\.correctness cannot judge .*'Paris'.*train-0"):
        try_on(recipe(), rows("Paris", "Rome"))


def test_a_reward_that_fails_on_few_rows_is_not_broken(tmp_path: Path) -> None:
    source = "def mine(completion, row): return 1 / int(row['answer'])"
    try_on(user_rewards(tmp_path, source), rows("0", *"1" * 7))
    with pytest.raises(ConfigError, match=r"ZeroDivisionError.*on 4 of 8 rows tried"):
        try_on(user_rewards(tmp_path, source), rows(*"1010" * 20))


def test_the_first_failure_is_kept(tmp_path: Path) -> None:
    rewards = build_rewards(user_rewards(tmp_path, "def mine(completion, row): return row['x']"))
    assert score(rewards, RIGHT, ROW | {"x": 1}) == {"mine": 1.0}
    assert rewards["mine"].failure == ""
    assert score(rewards, RIGHT, ROW) is None
    assert score(rewards, RIGHT, {"id": "train-7", "x": None}) is None
    assert first_failure(rewards).endswith(
        "my_rewards.py:mine raised KeyError: 'x', on row train-0"
    )


def test_the_judge_keeps_its_failure(tmp_path: Path) -> None:
    judge = build_judge(recipe())
    assert judge(RIGHT, {"id": "train-3", "answer": "Paris"}) is None
    assert judge.failure == (
        "rewards.correctness cannot judge the answer 'Paris', which is not a number, on row train-3"
    )
