"""The exported folder is imported alone: by a Python with the standard library and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rlvr_pipelines.cli import main
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.lambda_export.bundle import write_bundle, write_zip
from rlvr_trainer.lambda_export.bundle_trial import try_bundle
from rlvr_trainer.lambda_export.lambda_handler import completion_of, row_of, samples_of
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.tasks.base import Row

TINY = Path(__file__).parents[2] / "tiny.yaml"
GOLD = " 6 x 7 = 42.\n#### The final answer is 42"
WRONG = " 6 x 7 = 43.\n#### The final answer is 43"
ROWS = [Row("a", "How much is 6 x 7?", "42"), Row("b", "How much is 2 + 3?", "5", "2 + 3 = 5.")]

INVOKE = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); import handler;"
    "print(json.dumps(handler.lambda_handler(json.load(sys.stdin), None)))"
)


def recipe(*overrides: str) -> Recipe:
    return load_recipe(TINY, overrides)


def invoke(folder: Path, event: Any) -> Any:
    """Call the Lambda's handler as Lambda does, in a Python without installed packages."""
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", INVOKE, str(folder)],
        input=json.dumps(event),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not ran.returncode, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export the recipe once for each contract."""
    root = tmp_path_factory.mktemp("lambda")
    for contract in ("open-weights", "nova"):
        write_bundle(recipe(), root / contract, contract=contract)  # type: ignore[arg-type]
    return {path.name: path for path in root.iterdir()}


def messages(completion: Any, role: str = "assistant") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "How much is 6 x 7?"},
        {"role": role, "content": completion},
    ]


def test_nova_s_list_of_samples_is_answered_with_a_list(folders: dict[str, Path]) -> None:
    event = [
        {"id": "1", "messages": messages(GOLD), "reference_answer": "42"},
        {"id": "2", "messages": messages(WRONG), "metadata": {"reference_answer": "42"}},
        {"id": "3", "messages": messages([{"text": GOLD}], "nova_assistant"),
         "reference_answer": {"text": "42"}},
        {"id": "4", "messages": messages("no idea"), "reference_answer": "42"},
    ]  # fmt: skip
    scores = invoke(folders["nova"], event)
    assert [(score["id"], score["aggregate_reward_score"]) for score in scores] == [
        ("1", 1.5), ("2", 0.5), ("3", 1.5), ("4", 0.0),
    ]  # fmt: skip
    assert scores[1]["metrics_list"] == [
        {"name": "format", "value": 0.5, "type": "Reward"},
        {"name": "correctness", "value": 0.0, "type": "Reward"},
        {"name": "unverified", "value": 0.0, "type": "Metric"},
    ]


SAMPLES = [
    {"id": "1", "prompt": messages(GOLD), "reward_model": {"ground_truth": "42", "style": "rule"}},
    {"id": "2", "model_response": WRONG, "query": "6 x 7?", "reference_answer": {"text": "42"}},
]


def test_an_open_weight_model_s_samples_are_answered_with_a_json_body(
    folders: dict[str, Path],
) -> None:
    answer = invoke(folders["open-weights"], SAMPLES)
    assert answer["statusCode"] == 200
    scores = json.loads(answer["body"])
    assert [score["aggregate_reward_score"] for score in scores] == [1.5, 0.5]


@pytest.mark.parametrize(
    "event",
    [SAMPLES, {"input": SAMPLES}, {"batch": SAMPLES}, {"body": json.dumps({"batch": SAMPLES})}],
    ids=["list", "input", "batch", "body"],
)
def test_the_samples_of_an_event_are_found(event: Any) -> None:
    assert samples_of(event) == SAMPLES


def test_a_row_has_the_columns_that_rewards_may_read() -> None:
    sample = {
        "id": "7",
        "messages": messages(GOLD),
        "reference_answer": {"answer": 42, "unit": "apples"},
        "extra_info": {"level": 3},
    }
    assert row_of(sample, "7") == {
        "id": "7",
        "question": "How much is 6 x 7?",
        "answer": "42",
        "solution": "",
        "unit": "apples",
        "level": 3,
    }


def test_a_completion_that_cannot_be_verified_is_marked(folders: dict[str, Path]) -> None:
    event = [{"id": "1", "messages": messages(GOLD), "reference_answer": "forty-two"}]
    (score,) = invoke(folders["nova"], event)
    assert score["aggregate_reward_score"] == 0
    assert score["metrics_list"][-1] == {"name": "unverified", "value": 1.0, "type": "Metric"}


def test_samples_of_another_form_are_errors_that_name_the_sample() -> None:
    with pytest.raises(ValueError, match="no list of samples"):
        samples_of([])
    with pytest.raises(ValueError, match="'7' has no completion"):
        completion_of({"id": "7", "messages": messages(GOLD, "user")})
    with pytest.raises(ValueError, match="'7' has no gold answer"):
        row_of({"id": "7", "messages": messages(GOLD)}, "7")


def test_the_folder_scores_as_the_recipe_does(folders: dict[str, Path]) -> None:
    assert try_bundle(recipe(), folders["open-weights"], ROWS) == 6
    other = recipe("rewards={format: {weight: 2}, correctness: {}}")
    with pytest.raises(ConfigError, match=r"of row a gets 1\.5, and 2\.0 here"):
        try_bundle(other, folders["open-weights"], ROWS)


def test_a_users_reward_travels_with_the_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "vowels.py").write_text("VOWELS = 'aeiou'\n")
    (tmp_path / "mine.py").write_text(
        "from vowels import VOWELS\n"
        "def share(completion, row):\n"
        "    return sum(c in VOWELS for c in completion) / max(len(completion), 1)\n"
    )
    own = recipe(f"rewards={{share: {{function: '{tmp_path}/mine.py:share', weight: 3}}}}")
    write_bundle(own, tmp_path / "lambda", contract="nova")
    (tmp_path / "vowels.py").unlink()
    event = [{"id": "1", "messages": messages("aab"), "reference_answer": "42"}]
    (score,) = invoke(tmp_path / "lambda", event)
    assert score["aggregate_reward_score"] == pytest.approx(2)


def test_a_package_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import iniconfig\ndef one(completion, row):\n    return 1.0 if iniconfig else 0.0\n"
    )
    own = recipe(f"rewards={{one: {{function: '{tmp_path}/mine.py:one'}}}}")
    write_bundle(own, tmp_path / "lambda", contract="nova")
    with pytest.raises(ConfigError, match=r"does not run alone .*add --with PACKAGE"):
        try_bundle(own, tmp_path / "lambda", ROWS)
    with pytest.raises(ConfigError, match="the package no-such-one is not installed"):
        write_bundle(own, tmp_path / "lambda", contract="nova", packages=["no-such-one"])
    write_bundle(own, tmp_path / "lambda", contract="nova", packages=["iniconfig"])
    assert try_bundle(own, tmp_path / "lambda", ROWS) == 6


def test_a_zip_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    for number in ("1", "2"):
        folder = tmp_path / number
        (folder / "rlvr_trainer").mkdir(parents=True)
        (folder / "handler.py").write_text("content")
        (folder / "rlvr_trainer" / "errors.py").write_text("content")
        write_zip(folder, tmp_path / f"{number}.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.namelist() == ["handler.py", "rlvr_trainer/errors.py"]


def test_the_command_writes_a_folder_that_it_has_tried(tmp_path: Path) -> None:
    arguments = ["export", "lambda", str(TINY), "--out", str(tmp_path / "reward")]
    first = CliRunner().invoke(main, [*arguments, "--output", "json"])
    assert first.exit_code == 0, first.stderr
    facts = json.loads(first.stdout)
    assert facts["handler"] == "handler.lambda_handler"
    assert facts["completions_tried"] == 15
    assert (tmp_path / "reward" / "handler.py").is_file()
    second = CliRunner().invoke(main, arguments)
    assert second.exit_code == 2
    assert "exists; name another one" in second.stderr
