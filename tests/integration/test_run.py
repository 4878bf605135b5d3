"""Run `rlvr run` from the command line to the report: the real steps on a random model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ["training.max_steps=2", "training.per_device_batch_size=8", "sampling.num_generations=4"]


def rlvr(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("rlvr")), *arguments],
        capture_output=True,
        text=True,
        timeout=400,
    )


def own_task(folder: Path, model_dir: Path) -> Path:
    """Write the README's example of a user's task, verbatim but for a small model."""
    readme = (ROOT / "README.md").read_text("utf-8")
    recipe = re.search(r"```yaml\n# mine\.yaml\n(.*?)```", readme, re.DOTALL)
    assert recipe is not None
    assert len(recipe[0].splitlines()) <= 20
    (folder / "mine.yaml").write_text(recipe[1])
    rows = [
        {"question": f"What is {a} plus {b}?", "answer": a + b}
        for a in range(3, 9)
        for b in range(2, 9)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "vowels.py").write_text(
        "def vowels(completion, row):\n    return sum(c in 'aeiou' for c in completion) / 40\n"
    )
    return folder / "mine.yaml"


@pytest.fixture(scope="module")
def finished_run(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the README's task; random text earns an additional reward for its vowels."""
    folder = tmp_path_factory.mktemp("own-task")
    sets = [f"model.name={tiny_model_dir}", "model.dtype=fp32", *TINY]
    sets.append(f"rewards.vowels={{function: '{folder}/vowels.py:vowels'}}")
    done = rlvr(
        "run",
        str(own_task(folder, tiny_model_dir)),
        *("--run-dir", str(folder / "run")),
        *(part for override in sets for part in ("--set", override)),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "report.html" in done.stdout
    return folder / "run"


def test_a_users_task_runs_without_changing_the_package(finished_run: Path) -> None:
    assert {
        *("recipe.json", "data", "checkpoints", "adapter", "metrics.jsonl", "evaluation.json"),
        *("samples.jsonl", "report.html", "logs"),
    } <= {path.name for path in finished_run.iterdir()}
    recipe = json.loads((finished_run / "recipe.json").read_text())
    assert {name: reward["weight"] for name, reward in recipe["rewards"].items()} == {
        "format": 0.2,
        "correctness": 2,
        "vowels": 1,
    }


def test_before_and_after_answer_the_same_held_out_rows(finished_run: Path) -> None:
    samples = [json.loads(line) for line in (finished_run / "samples.jsonl").open()]
    ids = {
        model: [sample["id"] for sample in samples if sample["model"] == model]
        for model in ("before", "after")
    }
    assert ids["before"] == ids["after"]
    trained = [json.loads(line) for line in (finished_run / "data" / "train.jsonl").open()]
    assert not {row["question"] for row in trained} & {s["question"] for s in samples}
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    assert evaluation["num_samples"] == len(ids["before"])
    shots = evaluation["shots"]["8"]
    assert 0 <= shots["before"]["low"] <= shots["before"]["accuracy"] <= shots["before"]["high"]
    assert set(shots["after"]) >= {"accuracy", "low", "high", "format", "flexible"}


def test_the_report_describes_the_run(finished_run: Path) -> None:
    html = (finished_run / "report.html").read_text("utf-8")
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    assert evaluation["verdict"] in html
    assert "http://" not in html.replace("http://www.w3.org", "")


THROUGH_KFP = """
import json, pathlib, sys
from kfp import local
from rlvr_pipelines.pipeline.definition import rlvr_pipeline
from rlvr_pipelines.pipeline.job_parameters import recipe_parameter
from rlvr_trainer.recipe.reader import parse_recipe

local.init(local.SubprocessRunner(use_venv=False), pipeline_root="root")
recipe = recipe_parameter(parse_recipe(json.loads(pathlib.Path(sys.argv[1]).read_text())))
rlvr_pipeline(recipe=recipe, job_place="local", storage_uri=sys.argv[2])
"""


def test_the_pipeline_function_through_kfp_gives_the_same_artifacts(
    finished_run: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THROUGH_KFP, str(finished_run / "recipe.json"), str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "RLVR_RUN_ID": "one"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    (artifacts,) = (tmp_path / "root").iterdir()

    compared = {
        "data": "prepare-data/data",
        "adapter/adapter_model.safetensors": "train/adapter/adapter_model.safetensors",
        "samples.jsonl": "compare-and-report/samples",
        "evaluation.json": "compare-and-report/evaluation",
    }
    for here, there in compared.items():
        assert contents(finished_run / here) == contents(artifacts / there), here
    assert (artifacts / "compare-and-report" / "report").is_file()
    steps = [step_numbers(folder) for folder in (finished_run, tmp_path / "one")]
    assert steps[0] == steps[1] != []


def contents(path: Path) -> dict[str, bytes]:
    """Return the files by their paths below `path`, which may be a file itself."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in files if file.is_file()
    }


def step_numbers(run_dir: Path) -> list[dict[str, float]]:
    """Return the events of the optimizer steps, without times."""
    events = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    timed = ("time", "tokens_per_second", "step_time")
    return [
        {name: value for name, value in event.items() if name not in timed}
        for event in events
        if event["event"] == "step"
    ]


def test_another_recipe_in_the_same_directory_is_refused(
    finished_run: Path, tmp_path: Path
) -> None:
    done = rlvr("run", "arithmetic", "--run-dir", str(finished_run))
    assert done.returncode == 2
    assert "model.name" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_with_a_broken_row_names_its_line(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"What is {n}?", "answer": n}) for n in range(60)]
    rows[49] = '{"question": "What is'
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    done = rlvr(
        *("run", "arithmetic", "--run-dir", str(tmp_path / "run")),
        *("--set", "task=question-answer", "--set", f"data.train={tmp_path}/rows.jsonl"),
    )
    assert done.returncode == 3
    assert "rows.jsonl:50" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("row['topic']", "raised KeyError: 'topic', on row t"),
        ("None", "returned None, not a finite number, on row t"),
        ("(1.0, 'good')", "returned (1.0, 'good'), a tuple, not a finite number, on row t"),
    ],
)
def test_a_reward_that_cannot_work_is_found_in_a_plan_and_before_anything_is_evaluated(
    tiny_model_dir: Path, tmp_path: Path, body: str, cause: str
) -> None:
    (tmp_path / "mine.py").write_text(f"def mine(completion, row):\n    return {body}\n")
    sets = [f"model.name={tiny_model_dir}", "model.dtype=fp32", *TINY]
    sets.append(f"rewards.mine={{function: '{tmp_path}/mine.py:mine'}}")
    arguments = [
        *(str(own_task(tmp_path, tiny_model_dir)), "--run-dir", str(tmp_path / "run")),
        *(part for override in sets for part in ("--set", override)),
    ]
    for verb in ("plan", "run") if body == "None" else ("plan",):
        done = rlvr(verb, *arguments)
        assert done.returncode == 2, done.stderr
        assert f"rewards.mine.function: {tmp_path}/mine.py:mine {cause}" in done.stderr
        assert "Traceback" not in done.stderr
    assert "Evaluate base model" not in done.stderr
