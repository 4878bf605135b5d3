"""Set the verifier of a reward, and its options."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.json_schema import fields_page, recipe_schema
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import training_hash
from rlvr_trainer.rewards import build_rewards
from rlvr_trainer.verifiers import VERIFIERS, Format, Number, Verifier


def of(rewards: str) -> Recipe:
    return load_recipe("arithmetic", [f"rewards={rewards}"])


def test_a_reward_of_any_name_has_a_verifier_with_options() -> None:
    recipe = of("{close: {verifier: number, tolerance: 0.5, weight: 2}}")
    close = build_rewards(recipe)["close"]
    completion = "#### The final answer is 42.4"
    assert recipe.rewards["close"].weight == 2
    assert close(completion, {"answer": "42"}) == 1
    assert close(completion, {"answer": "41"}) == 0


def test_a_relative_tolerance_widens_the_absolute_one() -> None:
    recipe = of("{near: {verifier: number, relative_tolerance: 0.1}}")
    near = build_rewards(recipe)["near"]
    assert near("#### The final answer is 1100", {"answer": "1000"}) == 1
    assert near("#### The final answer is 1100.1", {"answer": "1000"}) == 0
    assert near("#### The final answer is -1000", {"answer": "1000"}) == 0
    assert near("#### The final answer is 0.001", {"answer": "0.002"}) == 1  # the absolute one
    assert near("#### The final answer is 0", {"answer": "0.0001"}) == 0


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ("{a: {verifier: number, tolerence: 1}}",
         r"rewards\.a\.tolerence: unknown field \(did you mean 'tolerance'\?\)"),
        ("{a: {verifier: number, tolerance: -1}}", r"rewards\.a\.tolerance: got -1; .* 0"),
        ("{a: {verifier: nubmer}}",
         r"a\.verifier = 'nubmer' is not a verifier .*\(did you mean 'number'\?\)"),
        ("{a: {verifier: number, function: f.py:g}}", "both a verifier .* and a function"),
        ("{correctness: {tolerance: 0.1}}", r"also set rewards\.correctness\.verifier: number"),
        ("{a: {}}", r"'a' is not a built-in reward .*set rewards\.a\.verifier"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_to_do(rewards: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        of(rewards)


def test_rewards_without_a_verifier_are_the_ones_of_the_published_recipe() -> None:
    recipe = load_recipe("arithmetic")
    assert recipe.verifier_of("format") == Format()
    assert recipe.verifier_of("correctness") == Number()


def test_a_recipe_with_verifiers_is_the_same_after_a_dump() -> None:
    recipe = load_recipe(
        "arithmetic",
        ["rewards={a: {verifier: number, tolerance: 0.5}, format: {}}", "prompt.answer_place=tag"],
    )
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_fields_of_a_later_release_do_not_change_the_identity_of_recipes_without_them() -> None:
    tree = {"name": "mine", "model": {"name": "./model"}}
    recipe = parse_recipe(tree)
    assert (recipe.hash, training_hash(recipe)) == (
        "6c7c12f56aeb",
        "81ff6ea6ef36",
    )  # of the release before
    assert parse_recipe(tree | {"prompt": {"answer_place": "marker"}}).hash == recipe.hash
    assert parse_recipe(tree | {"prompt": {"answer_place": "tag"}}).hash != recipe.hash


@pytest.mark.parametrize("model", VERIFIERS)
def test_the_schema_and_the_page_of_fields_show_the_options_of_a_verifier(
    model: type[Verifier],
) -> None:
    name = model.model_fields["verifier"].default
    page = fields_page()
    section = page[page.index(f"with `verifier: {name}`") :].partition("\n## ")[0]
    for field in model.model_fields.keys() - {"verifier"}:
        assert f"`rewards.NAME.{field}`" in section
    validator = Draft202012Validator(recipe_schema())
    minimal = {"extends": "arithmetic"}
    misspelt = {"rewards": {"a": {"verifier": name, "weihgt": 1}}}
    assert not validator.is_valid(minimal | misspelt)
