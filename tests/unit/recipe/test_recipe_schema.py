import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from rlvr_pipelines.cli import main
from rlvr_trainer.recipe.json_schema import recipe_schema
from rlvr_trainer.recipe.reader import shipped_recipes
from rlvr_trainer.recipe.schema import Recipe

FOLDER = Path(str(files("rlvr_trainer.recipe"))) / "shipped"
MINIMAL = {"name": "mine", "model": {"name": "./model"}}


@pytest.mark.parametrize(
    ("option", "name"), [("--schema", "recipe.schema.json"), ("--fields", "README.md")]
)
def test_what_lies_beside_the_shipped_recipes_is_what_the_command_prints(
    option: str, name: str
) -> None:
    printed = CliRunner().invoke(main, ["recipes", option])
    assert printed.exit_code == 0
    assert (FOLDER / name).read_text("utf-8") == printed.stdout, (
        f"write it again: rlvr recipes {option} > {FOLDER.name}/{name}"
    )


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_names_its_schema_and_is_valid_by_it(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    comment, _, path = text.partition("\n")[0].partition("$schema=")
    assert comment == "# yaml-language-server: "
    schema = json.loads((FOLDER / path).read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({}, True),
        ({"extends": "arithmetic", "name": None}, False),
        ({"training": {"max_stepz": 3}}, False),
        ({"training": {"max_steps": 0}}, False),
        ({"model": {"dtype": "fp16"}}, False),
        ({"lora": None, "grpo": {"beta": 0.1}}, True),
    ],
)
def test_the_schema_finds_what_an_editor_can_see(change: dict[str, Any], is_valid: bool) -> None:
    assert Draft202012Validator(recipe_schema()).is_valid(MINIMAL | change) == is_valid


def test_a_recipe_that_extends_another_needs_no_name_and_no_model() -> None:
    schema = Draft202012Validator(recipe_schema())
    assert schema.is_valid({"extends": "arithmetic", "model": {"dtype": "bf16"}})
    assert not schema.is_valid({"seed": 7})


def test_every_field_of_a_recipe_is_described() -> None:
    schema = Recipe.model_json_schema()

    def undescribed(name: str, section: dict[str, Any]) -> Iterator[str]:
        for field, value in section["properties"].items():
            if not value.get("description") and "$ref" not in value:
                yield f"{name}.{field}"

    sections = {"Recipe": schema, **schema["$defs"]}
    assert all(section["description"] for section in sections.values())
    assert [field for name, one in sections.items() for field in undescribed(name, one)] == []
