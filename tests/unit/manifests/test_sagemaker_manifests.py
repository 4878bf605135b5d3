"""The walk-through of `manifests/sagemaker`; nothing here asks AWS."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click
import yaml

from rlvr_components.cost.instance_prices import find_instance
from rlvr_components.sagemaker.sagemaker_settings import parse_sagemaker
from rlvr_pipelines.cli import main as cli
from rlvr_trainer.recipe.batch import batch_of
from rlvr_trainer.recipe.reader import load_recipe

from .conftest import MANIFESTS

SAGEMAKER = MANIFESTS / "sagemaker"
WALK_THROUGH = (SAGEMAKER / "README.md").read_text()


def settings() -> dict[str, Any]:
    filled = (SAGEMAKER / "settings.yaml").read_text()
    for name, value in {
        "MY_ACCOUNT_ID": "123456789012",
        "MY_REGION": "us-east-1",
        "MY_DIGEST": "0" * 64,
    }.items():
        filled = filled.replace(name, value)
    tree: dict[str, Any] = yaml.safe_load(filled)
    return tree


def test_the_published_recipe_fits_the_settings_and_has_a_price() -> None:
    parsed = parse_sagemaker(settings(), origin="settings.yaml")
    assert parsed.world_size == 8
    batch_of(load_recipe("gsm8k", []), parsed.world_size)
    assert find_instance(parsed.instance_type) is not None


def test_the_commands_of_the_walk_through_have_existing_arguments() -> None:
    text = WALK_THROUGH.replace("\\\n", " ").replace("~/rlvr-sagemaker.yaml", __file__)
    lines = re.findall(r"^rlvr .*$", text, re.M)
    assert len(lines) > 6
    for line in lines:
        verb, *arguments = shlex.split(line, comments=True)[1:]
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None, line
        command.make_context(verb, arguments)


def test_the_walk_through_names_existing_files() -> None:
    named = re.findall(r"\$\(fill (\S+?)\)", WALK_THROUGH)
    assert named
    for name in named:
        if "$name" not in name:
            path = name.replace("$IAM", "../eks/iam")
            assert (SAGEMAKER / path).is_file(), name


def test_what_the_walk_through_creates_it_deletes() -> None:
    for verb in ("ecr {}-repository", "iam {}-role "):
        assert f"aws {verb.format('create')}" in WALK_THROUGH
        assert f"aws {verb.format('delete')}" in WALK_THROUGH
    put = re.findall(r"put-role-policy .*--policy-name (\w+)", WALK_THROUGH)
    deleted = re.search(r"for name in (.*); do aws iam delete-role-policy", WALK_THROUGH)
    assert deleted
    assert put == deleted[1].split()
    assert "aws s3 rb s3://$BUCKET --force" in WALK_THROUGH
