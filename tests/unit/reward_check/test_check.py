"""Test that rewards which a model can earn without answering are found before it learns them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner, Result

from rlvr_components.preflight.form import Form
from rlvr_components.steps.check_step import check
from rlvr_pipelines.cli import main
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe, shipped_recipes
from rlvr_trainer.recipe.schema import AttackName, Recipe
from rlvr_trainer.reward_check import RewardCheck, check_rewards, reward_remarks
from rlvr_trainer.reward_check.attacks import ATTACKS
from rlvr_trainer.run_dir.events import read_events
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout
from rlvr_trainer.variables import EVENTS_VARIABLE

LOOSE = """
import re, time

def contains(completion, row):
    return float(row["answer"] in completion)

def any_script(completion, row):
    numbers = re.findall(r"\\d+", completion)
    return float(bool(numbers) and int(numbers[-1]) == int(row["answer"]))

def marker(completion, row):
    return float("####" in completion)

def closed_tags(completion, row):
    return float(completion.count("<answer>") > 0)

def any_answer(completion, row):
    return float(bool(re.search(r"#### The final answer is \\S", completion)))

def always(completion, row):
    return 1.0

def long(completion, row):
    return len(completion) / 100

def brief(completion, row):
    return 2.0 * (len(completion) < 5)

def penalty(completion, row):
    return float(len(completion) > 1000)

def first_word(completion, row):
    return float(completion.split()[0] != "")

def never(completion, row):
    return 0.0

def slow(completion, row):
    time.sleep(0.01)
    return 0.0

def exact(completion, row):
    lines = [line for line in completion.splitlines() if line.startswith("####")]
    return float(lines == [f"#### The final answer is {row['answer']}"])
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "loose.py"
    path.write_text(LOOSE, "utf-8")
    return path


def recipe(mine: Path, judge: str = "", **tree: Any) -> Recipe:
    """Return a recipe whose judge is a function of `mine`; empty: the built-in one."""
    rewards = {"judge": {"function": f"{mine}:{judge}"}} if judge else {"correctness": {}}
    evaluation = {"correct_by": "judge"} if judge else {}
    evaluation |= tree.pop("evaluation", {})
    return parse_recipe(
        {
            "name": "test",
            "task": "question-answer",
            "model": {"name": "embedded:x"},
            "rewards": {**rewards, **tree.pop("rewards", {})},
            "evaluation": evaluation,
            "prompt": {"num_shots": 0},
            **tree,
        }
    )


def rows(num_rows: int = 40) -> list[Row]:
    return [
        Row(f"train-{n}", f"What is {n} + 17?", str(n + 17), f"{n} + 17 = {n + 17}.")
        for n in range(num_rows)
    ]


def checked(recipe: Recipe, rows: list[Row], **options: Any) -> RewardCheck:
    return check_rewards(recipe, PromptLayout(recipe.prompt, ()), rows, **options)


def found(check: RewardCheck, severity: str) -> set[str]:
    return {
        kind for finding in check.findings if finding.severity == severity for kind in finding.kinds
    }


# --- gold answers


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_rewards_its_gold_answers_and_no_attack(name: str) -> None:
    few = ["--rows", "20", "--set", "data.num_train_rows=200"]
    result = CliRunner().invoke(main, ["reward", "check", name, *few, "--output", "json"])
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["findings"] == []
    assert facts["completions"]["gold"]["total"] == 1.5
    assert facts["completions"]["empty"]["total"] == 0


def test_gold_answers_that_the_judge_refuses_are_an_error(mine: Path) -> None:
    shown = checked(recipe(mine, "never"), rows())
    [message] = shown.messages("error")
    assert "rewards.judge gives nothing to the gold completions of 40 of 40 rows" in message
    assert "prompt.solution_template" in message


def test_one_odd_gold_answer_in_many_is_a_warning(mine: Path) -> None:
    odd = Row("train-x", "Which?", "200\n")
    shown = checked(recipe(mine, "exact"), [*rows(150), odd])
    assert "gold completions of 1 of 151 rows" in shown.messages("warning")[0]
    assert shown.messages("error") == []


# --- attacks: rewards as they have been hacked


@pytest.mark.parametrize(
    ("judge", "errors", "warnings"),
    [
        ("exact", set(), set()),
        ("contains", set(), {"all-options", "many-answers"}),
        ("any_script", set(), {"look-alikes"}),
        ("marker", {"no-answer", "do-not-know", "other-answer"}, {"many-answers"}),
        ("closed_tags", {"gold", "open-tags"}, set()),
        ("any_answer", {"do-not-know", "other-answer"}, {"most-common", "look-alikes"}),
        ("always", {"empty", "prompt", "long-text", "open-tags"}, {"many-answers"}),
        ("long", {"long-text", "prompt"}, set()),
    ],
)
def test_a_loose_judge_is_named_with_the_attacks_that_fool_it(
    judge: str, errors: set[str], warnings: set[str], mine: Path
) -> None:
    shown = checked(recipe(mine, judge), rows())
    assert errors <= found(shown, "error")
    assert warnings <= found(shown, "warning")
    if not errors:
        assert not shown.messages("error")
    if not errors | warnings:
        assert not shown.findings


def test_a_judge_that_searches_the_completion_is_fooled_by_the_prompt(mine: Path) -> None:
    options = [
        Row(f"train-{n}", f"Which is a fruit: {' or '.join(order)}?", "apple")
        for n, order in enumerate([["apple", "stone"], ["stone", "apple"]] * 20)
    ]
    assert "prompt" in found(checked(recipe(mine, "contains"), options), "error")


def test_the_strict_judge_of_numbers_has_no_findings_beside_a_loose_format(mine: Path) -> None:
    loose = recipe(mine, rewards={"format": {}, "shape": {"function": f"{mine}:marker"}})
    shown = checked(loose, rows())
    assert found(shown, "error") == set()
    [message] = shown.messages("warning")
    assert message == (
        "rewards.shape is earned without the right answer by no-answer (100%); make it stricter, "
        "or accept it: evaluation.accept_attacks: [no-answer]"
    )


def test_a_sum_that_an_empty_completion_earns_is_an_error(mine: Path) -> None:
    shown = checked(recipe(mine, rewards={"brief": {"function": f"{mine}:brief"}}), rows())
    assert "the rewards give 2.00 to empty" in "".join(shown.messages("error"))
    weighed = {"brief": {"function": f"{mine}:brief", "weight": 0.1}}
    assert not checked(recipe(mine, rewards=weighed), rows()).messages("error")


def test_a_part_that_grows_with_a_text_is_a_warning(mine: Path) -> None:
    shown = checked(recipe(mine, rewards={"long": {"function": f"{mine}:long"}}), rows())
    assert shown.messages("error") == []
    assert any(
        "700.00 to long-text in sum" in line or "to long-text" in line
        for line in shown.messages("warning")
    )


def test_a_penalty_is_not_earned_by_what_it_punishes(mine: Path) -> None:
    punishing = {"penalty": {"function": f"{mine}:penalty", "weight": -1.0}}
    assert checked(recipe(mine, rewards=punishing), rows()).findings == []


def test_a_reward_that_fails_on_an_odd_text_is_named_with_its_cause(mine: Path) -> None:
    fragile = {"fragile": {"function": f"{mine}:first_word"}}
    messages = checked(recipe(mine, rewards=fragile), rows()).messages("warning")
    assert any("fails on empty: " in message and "IndexError" in message for message in messages)


def test_an_answer_that_most_rows_share_is_told(mine: Path) -> None:
    same = [Row(f"train-{n}", f"{n}?", "7" if n % 4 else "8") for n in range(40)]
    assert found(checked(recipe(mine), same), "warning") == {"most-common"}
    assert checked(recipe(mine), same[1:2]).findings == []  # a single row, trained on purpose


def test_what_is_accepted_is_not_found_again(mine: Path) -> None:
    accepted = {"accept_attacks": ["no-answer"]}
    shape = {"shape": {"function": f"{mine}:marker"}}
    assert checked(recipe(mine, rewards=shape, evaluation=accepted), rows()).findings == []
    with pytest.raises(ConfigError, match=r"accept_attacks\.0: got 'emty'"):
        recipe(mine, evaluation={"accept_attacks": ["emty"]})
    assert {*ATTACKS, "gold"} == set(get_args(AttackName))


def test_slow_rewards_are_tried_on_as_many_rows_as_there_is_time_for(mine: Path) -> None:
    shown = checked(recipe(mine, "slow"), rows(), time_limit_s=0.1)
    assert 1 <= shown.num_gold < 40
    assert 1 <= shown.num_attacked < 40


# --- where it is seen


@pytest.fixture
def loose(mine: Path) -> Path:
    """A recipe whose judge searches the completion, and whose questions hold the answers."""
    data = [{"question": f"Is {n} + 0 more than {n}?", "answer": n} for n in range(60)]
    (mine.parent / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    tree = {
        "extends": "arithmetic",
        "name": "loose",
        "task": "question-answer",
        "data": {"train": "./rows.jsonl", "num_train_rows": None, "num_test_rows": None},
        "rewards": {"judge": {"function": "./loose.py:contains"}},
        "evaluation": {"correct_by": "judge"},
        "training": {"per_device_batch_size": 16},
    }
    path = mine.parent / "loose.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def rlvr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_prints_what_each_completion_earns_and_fails_for_a_fooled_judge(
    loose: Path,
) -> None:
    result = rlvr("reward", "check", loose)
    assert result.exit_code == 2
    assert "gold               100% (1.00)   1.00    the gold answer" in result.stdout
    assert "prompt             100% (1.00)" in result.stdout
    assert "error: rewards.judge is earned without the right answer by prompt" in result.stderr
    facts = json.loads(rlvr("reward", "check", loose, "--output", "json").stdout)
    assert facts["completions"]["prompt"]["rewards"]["judge"] == {
        "share": 1.0, "mean": 1.0, "num_failed": 0,
    }  # fmt: skip


def test_a_plan_and_the_check_step_refuse_a_fooled_judge(
    loose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = rlvr("plan", loose)
    assert planned.exit_code == 2
    assert "earned without the right answer by prompt" in planned.stderr
    accept = "evaluation.accept_attacks=[prompt, question-content, other-answer]"
    accepted = rlvr("plan", loose, "--set", accept)
    assert accepted.exit_code == 0
    assert "warning rewards.judge is earned without the right answer" in accepted.stdout

    monkeypatch.setenv("RLVR_RUN_ID", "run-1")
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    tree = load_recipe(loose).model_dump(mode="json")
    with pytest.raises(ConfigError, match="earned without the right answer by prompt"):
        check(Form(tree, job_place="local"))
    field, kinds = accept.split("=")
    overrides = {field: yaml.safe_load(kinds)}
    plan = check(Form(tree, recipe_overrides=overrides, job_place="local")).plan
    assert "**Note.** rewards.judge is earned without the right answer" in plan
    [remark] = read_events(tmp_path / "events.jsonl")
    assert remark["event"] == "remark"
    assert remark["message"] in plan


def test_rows_that_cannot_be_read_are_left_to_the_step_that_needs_them(loose: Path) -> None:
    (loose.parent / "rows.jsonl").write_text("")
    assert reward_remarks(load_recipe(loose)) == []
