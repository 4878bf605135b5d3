import json
import os
from pathlib import Path

import pytest

from rlvr_pipelines.local.claim import claim
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import TRAJECTORY, trajectory_of
from rlvr_trainer.run_dir.checkpoint import MARKER
from rlvr_trainer.run_dir.layout import read_recipe
from rlvr_trainer.storage.atomic_files import write_text


def recipe(**fields: object) -> Recipe:
    return parse_recipe(
        {"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}, **fields}
    )


def test_a_claim_makes_the_directory_and_leaves_the_recipe_in_it(tmp_path: Path) -> None:
    with claim(tmp_path / "runs" / "tiny", recipe()) as claimed:
        assert read_recipe(claimed.run_dir.path) == recipe()


@pytest.mark.parametrize("name", ["data", "adapter", "checkpoints", "report.html"])
def test_a_folder_with_other_files_is_left_unchanged(name: str, tmp_path: Path) -> None:
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
        assert read_recipe(claimed.run_dir.path).description == "two"


def commit_step(run_dir: Path, of: Recipe) -> None:
    """Write a committed checkpoint, as far as a claim reads it."""
    folder = run_dir / "checkpoints" / "step-10"
    write_text(folder / TRAJECTORY, trajectory_of(of).to_json())
    (folder / MARKER).write_text("{}")


def finish(run_dir: Path, of: Recipe) -> None:
    with claim(run_dir, of):
        pass
    commit_step(run_dir, of)
    (run_dir / "adapter").mkdir()
    (run_dir / "evaluation.json").write_text("{}")


@pytest.mark.parametrize("left", ["checkpoints", "adapter"])
def test_other_settings_than_those_trained_with_are_refused_field_by_field(
    left: str, tmp_path: Path
) -> None:
    with claim(tmp_path, recipe()):
        pass
    if left == "checkpoints":
        commit_step(tmp_path, recipe())
    else:  # left by a training elsewhere
        (tmp_path / "adapter").mkdir()
    other = recipe(seed=7, prompt={"num_shots": 2}, rewards={"format": {"weight": 2}})

    with pytest.raises(ConfigError) as caught, claim(tmp_path, other):
        pytest.fail("must not be entered")

    message = str(caught.value)
    assert "prompt.num_shots: 8 there, 2 here" in message
    assert "rewards.correctness.weight: 1.0 there, nothing here" in message
    assert "seed: 42 there, 7 here" in message
    assert "another --run-dir" in message
    assert read_recipe(tmp_path) == recipe()


def test_settings_simply_apply_where_nothing_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claim(tmp_path, recipe()):
        pass
    (tmp_path / "data").mkdir()

    with claim(tmp_path, recipe(seed=7)) as claimed:
        assert read_recipe(claimed.run_dir.path).seed == 7

    assert "continues with changed settings:\n  seed: 42 there, 7 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "reopened"),
    [
        ({"name": "other"}, False),
        ({"description": "other"}, False),
        ({"training": {"save_steps": 7, "keep_checkpoints": 5}}, False),
        ({"training": {"num_epochs": 2}}, True),
        ({"evaluation": {"num_rows": 5}}, True),
    ],
)
def test_a_finished_run_continues_with_settings_that_do_not_affect_the_weights(
    fields: dict[str, object], reopened: bool, tmp_path: Path
) -> None:
    finish(tmp_path, recipe())

    with claim(tmp_path, recipe(**fields)) as claimed:
        assert read_recipe(claimed.run_dir.path) == recipe(**fields)

    assert (tmp_path / "evaluation.json").exists() != reopened


def test_a_finished_run_is_not_reopened_by_what_only_looks_at_it(tmp_path: Path) -> None:
    finish(tmp_path, recipe())
    other = recipe(evaluation={"num_rows": 5})

    with (
        pytest.raises(ConfigError, match=r"results of .*\n  evaluation.num_rows: None there, 5"),
        claim(tmp_path, other, reopen=False),
    ):
        pytest.fail("must not be entered")

    assert (tmp_path / "evaluation.json").exists()
    assert read_recipe(tmp_path) == recipe()


def test_code_that_was_edited_since_the_training_is_refused(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def mine(completion, row): return 1.0\n")
    mine = recipe(rewards={"mine": {"function": f"{code}:mine"}})
    finish(tmp_path / "run", mine)
    with claim(tmp_path / "run", mine):
        pass
    code.write_text("def mine(completion, row): return 2.0\n")

    with (
        pytest.raises(ConfigError, match=r"rewards.mine.function: the content of .* has changed"),
        claim(tmp_path / "run", mine),
    ):
        pytest.fail("must not be entered")


def test_another_checkout_of_the_same_files_continues_a_finished_run(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        (folder / "mine.py").write_text("def mine(completion, row): return 1.0\n")
    first, second = (
        recipe(rewards={"mine": {"function": f"{folder}/mine.py:mine"}}) for folder in folders
    )
    finish(tmp_path / "run", first)

    with claim(tmp_path / "run", second):
        pass

    assert (tmp_path / "run" / "evaluation.json").exists()


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


def test_a_directory_without_a_recipe_is_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        read_recipe(tmp_path)


def test_the_recipe_is_written_whole(tmp_path: Path) -> None:
    with claim(tmp_path, recipe()) as claimed:
        assert json.loads(claimed.run_dir.recipe.read_text())["name"] == "tiny"
    assert not list(tmp_path.glob(".recipe*"))
