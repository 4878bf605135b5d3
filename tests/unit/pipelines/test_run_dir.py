import json
import os
from pathlib import Path

import pytest

from rlvr_pipelines.run_dir import RunDir, claim, read_recipe
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import parse_recipe


def recipe(**fields: object) -> Recipe:
    return parse_recipe(
        {"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}, **fields}
    )


def test_a_claim_makes_the_directory_and_leaves_the_recipe_in_it(tmp_path: Path) -> None:
    with claim(tmp_path / "runs" / "tiny", recipe()) as claimed:
        assert read_recipe(claimed.run_dir) == recipe()


@pytest.mark.parametrize("name", ["data", "adapter", "checkpoints", "report.html"])
def test_a_folder_with_somebodys_own_files_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=f"would replace {name}"), claim(tmp_path, recipe()):
        pytest.fail("must not be entered")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "notes.txt"])
    (tmp_path / name).rmdir()
    with claim(tmp_path, recipe()):
        pass


def test_the_same_recipe_may_come_back_with_another_description(tmp_path: Path) -> None:
    with claim(tmp_path, recipe(description="one")):
        pass
    with claim(tmp_path, recipe(description="two")) as claimed:
        assert read_recipe(claimed.run_dir).description == "two"


def test_another_recipe_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    with claim(tmp_path, recipe()):
        pass
    other = recipe(seed=7, prompt={"num_shots": 2}, rewards={"format": {"weight": 2}})

    with pytest.raises(ConfigError) as caught, claim(tmp_path, other):
        pytest.fail("must not be entered")

    message = str(caught.value)
    assert "prompt.num_shots: 8 there, 2 here" in message
    assert "rewards.correctness.weight: 1.0 there, nothing here" in message
    assert "seed: 42 there, 7 here" in message
    assert "another --run-dir" in message
    assert read_recipe(RunDir(tmp_path)) == recipe()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    with (
        claim(tmp_path, recipe()),
        pytest.raises(ConfigError, match=rf"in use by another run \(process {os.getpid()}\)"),
        claim(tmp_path, recipe()),
    ):
        pytest.fail("must not be entered")

    with claim(tmp_path, recipe()):
        pass


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(ConfigError, match="cannot be written"),
        claim(tmp_path / "file" / "run", recipe()),
    ):
        pytest.fail("must not be entered")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(ConfigError, match="Permission denied"), claim(tmp_path / "run", recipe()):
        pytest.fail("must not be entered")


def test_a_damaged_recipe_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"name": "ti')

    with pytest.raises(ConfigError, match="cannot be read"), claim(tmp_path, recipe()):
        pytest.fail("must not be entered")

    assert (tmp_path / "recipe.json").read_text() == '{"name": "ti'


def test_a_directory_without_a_recipe_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        read_recipe(RunDir(tmp_path))


def test_the_recipe_is_written_whole(tmp_path: Path) -> None:
    with claim(tmp_path, recipe()) as claimed:
        assert json.loads(claimed.run_dir.recipe.read_text())["name"] == "tiny"
    assert not list(tmp_path.glob(".recipe*"))
