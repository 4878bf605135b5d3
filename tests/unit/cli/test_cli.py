import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rlvr_pipelines import extras
from rlvr_pipelines.cli import main
from rlvr_pipelines.local.runner import Interrupted
from rlvr_trainer.errors import DataError, JobFailed, PlatformError
from rlvr_trainer.evaluation.outcome import compare, write_json
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import RunDir

RUN_ID = "0b1f6d3e-6c7a-4b0e-9f57-0d5f2a9a7c11"
TINY = str(Path(__file__).parents[2] / "tiny.yaml")


def rlvr(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "trl", "kfp", "kubernetes", "pydantic", "rich", "yaml"}

    imported = python("import sys, rlvr_pipelines.cli; print(*sys.modules)")

    assert heavy.isdisjoint(imported.split())


def test_commands_that_ask_no_cluster_do_not_import_its_client(tmp_path: Path) -> None:
    imported = python(
        "import os, sys; from click.testing import CliRunner; from rlvr_pipelines.cli import main\n"
        f"os.chdir({str(tmp_path)!r}); os.environ['KUBECONFIG'] = 'none'\n"
        "os.environ.pop('KUBERNETES_SERVICE_HOST', None)\n"
        "for command in (['status'], ['recipes'], ['plan', 'arithmetic']):\n"
        "    assert CliRunner().invoke(main, command).exit_code == 0, command\n"
        "print(*sys.modules)"
    )

    assert {"kubernetes", "urllib3"}.isdisjoint(imported.split())


def test_help_takes_less_than_0_4_s_of_this_machine() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = python(
        "import sys; sys.argv[1:] = ['--help']; from rlvr_pipelines.cli import main; main()"
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert "recipes" in text
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4


def test_the_commands_stand_in_the_order_of_a_run() -> None:
    assert list(main.list_commands(None)) == [  # type: ignore[arg-type]
        "recipes", "init", "reward", "plan", "run", "status", "logs", "stop", "clean", "evaluate",
        "report", "publish", "export", "compile", "upload",
    ]  # fmt: skip


@pytest.mark.parametrize("command", [*main.commands, "reward check"])
def test_every_command_explains_itself(command: str) -> None:
    *groups, name = command.split()
    result = rlvr(*groups, name, "--help")

    assert result.exit_code == 0
    assert "--debug" in result.output or "COMMAND" in result.output
    above = rlvr(*groups, "--help").output.splitlines()
    line = next(line for line in above if f"  {name} " in line)
    assert not line.endswith("...")  # one line says it


def test_recipes_lists_what_is_shipped() -> None:
    text, facts = rlvr("recipes"), json.loads(rlvr("recipes", "--output", "json").stdout)

    assert {"arithmetic", "gsm8k", "gsm8k-bf16", "gsm8k-one-shot", "gsm8k-smollm2"} <= {
        fact["name"] for fact in facts
    }
    for fact in facts:
        assert f"{fact['name']} " in text.stdout
        assert fact["description"] in text.stdout


def test_plan_shows_the_resolved_recipe_and_what_it_amounts_to() -> None:
    text = rlvr("plan", TINY, "--seed", "7").stdout

    assert "seed: 7\n" in text
    assert "rows    38 train, 4 validation, 5 test, 8 exemplars" in text
    assert "train   20 steps of 64 completions (8 questions)" in text
    assert "into    runs/tiny\n" in text
    assert "rlvr_trainer train --run " in text


def test_plan_gives_the_same_facts_as_json() -> None:
    facts = json.loads(rlvr("plan", TINY, "--output", "json").stdout)

    assert facts["recipe"]["data"]["num_test_rows"] == 5
    assert facts["sizes"]["num_rows"]["test"] == 5
    assert facts["job"]["argv"][1:4] == ["-m", "rlvr_trainer", "train"]


def test_an_unknown_recipe_and_an_unknown_field_are_answered_with_the_nearest() -> None:
    recipe, field = (
        rlvr("plan", "arithmetik"),
        rlvr("plan", "arithmetic", "--set", "prompt.num_shot=2"),
    )

    assert (recipe.exit_code, field.exit_code) == (2, 2)
    assert "did you mean 'arithmetic'?" in recipe.stderr
    assert "prompt.num_shot: unknown field (did you mean 'num_shots'?)" in field.stderr
    assert recipe.stdout == field.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [("walk",), ("run",), ("plan", "arithmetic", "--no-such-option"), ("run", "x", "--on", "mars")],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert rlvr(*arguments).exit_code == 2


def test_an_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    result = rlvr("report", str(tmp_path))

    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path} is not a run directory")
    assert "Traceback" not in result.stderr


def test_debug_lets_the_traceback_through(tmp_path: Path) -> None:
    result = rlvr("report", str(tmp_path), "--debug")

    assert type(result.exception).__name__ == "ConfigError"


def test_an_error_ends_with_its_own_code(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(
        json.dumps({"name": "x", "model": {"name": "embedded:smollm2-135m-instruct"}})
    )

    result = rlvr("report", str(tmp_path))  # no samples

    assert result.exit_code == DataError.exit_code
    assert "samples cannot be read" in result.stderr


def test_an_unexpected_error_says_how_to_see_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("rlvr_pipelines.pipeline.run_plan.plan_local", fail)
    result = rlvr("plan", TINY)

    assert result.exit_code == 1
    assert "unexpected ZeroDivisionError" in result.stderr
    assert "--debug" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run", "arithmetic"), "pip install 'rlvr[local]'"),
        (("evaluate", "arithmetic"), "pip install 'rlvr[train]'"),
        (("compile", "arithmetic", "-o", "x.yaml"), "pip install 'rlvr[pipelines]'"),
        (("publish", "runs/x", "-o", "y"), "pip install 'rlvr[train]'"),
        (("upload", "arithmetic"), "pip install 'rlvr[pipelines]'"),
        (("run", "arithmetic", "--on", "kubeflow"), "pip install 'rlvr[pipelines]'"),
        (("status", "arithmetic"), "pip install 'rlvr[kubernetes]'"),
        (("status", RUN_ID), "pip install 'rlvr[pipelines]'"),
        (("logs", "arithmetic"), "pip install 'rlvr[kubernetes]'"),
        (("stop", "arithmetic"), "pip install 'rlvr[kubernetes]'"),
        (("clean",), "pip install 'rlvr[kubernetes]'"),
    ],
)
def test_a_missing_package_is_answered_with_its_install_line(
    arguments: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)

    result = rlvr(*arguments)

    assert result.exit_code == 2
    assert line in result.stderr


def test_compile_writes_yaml(tmp_path: Path) -> None:
    target = tmp_path / "out" / "pipeline.yaml"

    assert rlvr("compile", "arithmetic", "--seed", "3", "-o", str(target)).exit_code == 0

    pipeline, *_ = yaml.safe_load_all(target.read_text())
    recipe = pipeline["root"]["inputDefinitions"]["parameters"]["recipe"]
    assert recipe["defaultValue"]["seed"] == 3


def test_a_run_directory_that_was_trained_with_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(TINY, ["seed=1"])
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "adapter").mkdir()

    result = rlvr("run", TINY, "--run-dir", str(tmp_path))

    assert result.exit_code == 2
    assert "seed: 1 there, 42 here" in result.stderr


def test_a_sweep_is_checked_before_anything_runs(tmp_path: Path) -> None:
    result = rlvr("run", TINY, "--run-dir", str(tmp_path), "--sweep", "prompt.num_shots=2,99")

    assert result.exit_code == 2
    assert "99 shots, but data.num_exemplars" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_trains_once_for_each_value_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_pipeline(recipe: Recipe, path: Path, **_: Any) -> RunDir:  # a fake of the local runner
        run_dir = RunDir(path)
        write_json(run_dir.evaluation, evaluation_at(recipe.prompt.num_shots))
        return run_dir

    monkeypatch.setattr("rlvr_pipelines.local.runner.run_pipeline", run_pipeline)
    sweep = ("run", TINY, "--run-dir", str(tmp_path), "--sweep", "prompt.num_shots=0,2")

    text, facts = rlvr(*sweep), json.loads(rlvr(*sweep, "--output", "json").stdout)

    assert text.exit_code == 0, text.stderr
    assert "prompt.num_shots" in text.stdout
    assert [run["value"] for run in facts["runs"]] == ["0", "2"]
    assert [run["evaluation"]["headline_shots"] for run in facts["runs"]] == [0, 2]
    assert json.loads((tmp_path / "sweep.json").read_text()) == facts["runs"]
    assert "prompt.num_shots" in Path(facts["report"]).read_text()


@pytest.mark.parametrize("failing", [{0}, {0, 2}])
@pytest.mark.parametrize("failure", [JobFailed, PlatformError])
def test_a_value_that_fails_does_not_end_a_sweep(
    failure: Any, failing: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = failure("Train failed: nothing was learnt")
    error.exit_code = 1

    def run_pipeline(recipe: Recipe, path: Path, **_: Any) -> RunDir:  # a fake of the local runner
        if recipe.prompt.num_shots in failing:
            raise error
        run_dir = RunDir(path)
        write_json(run_dir.evaluation, evaluation_at(recipe.prompt.num_shots))
        return run_dir

    monkeypatch.setattr("rlvr_pipelines.local.runner.run_pipeline", run_pipeline)
    result = rlvr("run", TINY, "--run-dir", str(tmp_path), "--sweep", "prompt.num_shots=0,2")

    assert result.exit_code == 1
    assert "prompt.num_shots=0: Train failed: nothing was learnt" in result.stderr
    assert f"{len(failing)} of 2 values failed" in result.stderr
    runs = json.loads((tmp_path / "sweep.json").read_text())
    assert [run["evaluation"] is None for run in runs] == [True, 2 in failing]
    assert (tmp_path / "report.html").exists()


def test_status_shows_runs_and_those_of_sweeps_and_passes_over_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "tiny-sweep-seed/seed=1", "storage/evaluate-base", "older"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "recipe.json").write_text(load_recipe(TINY).model_dump_json())
    (tmp_path / "runs" / "older" / "recipe.json").write_text('{"name": "older", "gone": 1}')

    result = rlvr("status", "--output", "json")

    assert result.exit_code == 0, result.stderr
    assert [run["run"] for run in json.loads(result.stdout)] == [
        "runs/plain", "runs/tiny-sweep-seed/seed=1",
    ]  # fmt: skip
    assert "runs/older is not shown" in result.stderr


def test_a_seed_that_is_swept_is_not_set_as_well(tmp_path: Path) -> None:
    result = rlvr("run", TINY, "--run-dir", str(tmp_path), "--sweep", "seed=1,2", "--seed", "7")

    assert result.exit_code == 2
    assert "both set the seed" in result.stderr


def test_an_interrupted_run_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_pipeline(recipe: Recipe, path: Path, **_: Any) -> RunDir:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr("rlvr_pipelines.local.runner.run_pipeline", run_pipeline)
    again = ("run", "arithmetic", "--set", "prompt.stop=Next problem", "--seed", "3")

    result = rlvr(*again, "--run-dir", str(tmp_path / "a b"))

    assert result.exit_code == 130
    assert result.stderr.rstrip().endswith(
        "To resume: rlvr run arithmetic --set 'prompt.stop=Next problem' --seed 3 "
        f"--run-dir '{tmp_path}/a b'"
    )


def evaluation_at(shots: int) -> dict[str, Any]:
    def samples(num_correct: int) -> list[dict[str, Any]]:
        return [
            {"shots": shots, "id": str(row), "correct": row < num_correct, "format": True,
             "flexible": True, "num_tokens": 7, "greedy": True}
            for row in range(10)
        ]  # fmt: skip

    return compare(samples(1), samples(8))


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


JOBS = ("--on", "pytorchjob", "--storage", "s3://bucket/runs", "--platform-set", "image=a@sha256:1")


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize(
    ("place", "kind"), [("pytorchjob", "PyTorchJob"), ("trainjob", "TrainJob")]
)
def test_plan_shows_the_very_job(place: str, kind: str) -> None:
    arguments = ("plan", TINY, *JOBS, "--on", place, "--nodes", "2", "--gpus", "1",
                 "--namespace", "jobs", "--set", "data.num_train_rows=400")  # fmt: skip

    text, facts = rlvr(*arguments), json.loads(rlvr(*arguments, "--output", "json").stdout)

    assert text.exit_code == 0, text.stderr
    description, manifest = text.stdout.split("---\n")
    assert yaml.safe_load(manifest) == facts["job"]["manifest"]
    assert facts["job"]["manifest"]["kind"] == kind
    assert facts["job"]["manifest"]["metadata"]["namespace"] == "jobs"
    assert (facts["world_size"], facts["job"]["num_nodes"]) == (2, 2)
    assert "world   2 processes: 2 nodes with 1 GPU each" in description
    assert facts["sizes"]["completions_per_step"] == 2 * 64


ON_G5 = (*JOBS, "--gpus", "1", "--instance-type", "g5.xlarge")


@pytest.mark.usefixtures("no_cluster")
def test_plan_tells_the_price_of_a_run_in_a_cluster() -> None:
    arguments = ("plan", TINY, *ON_G5, "--max-cost-usd", "5")

    text, facts = rlvr(*arguments).stdout, json.loads(rlvr(*arguments, "--output", "json").stdout)

    cost = facts["cost"]
    assert 0 < cost["usd_spot"] < cost["usd"] < 5
    assert f"cost    about ${cost['usd']:.2f} on demand" in text
    spec = facts["job"]["manifest"]["spec"]["runPolicy"]
    assert spec["activeDeadlineSeconds"] == 3600 + cost["run_timeout_s"]
    assert "cost    unknown: no instance type is named" in rlvr("plan", TINY, *JOBS).stdout
    assert "cost" not in rlvr("plan", TINY).stdout


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_run_that_is_estimated_above_its_limit_does_not_begin(
    command: str, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    result = rlvr(command, TINY, *ON_G5, "--max-cost-usd", "0.01", "--run-dir", str(path))

    assert result.exit_code == 2
    assert "and --max-cost-usd is 0.01; raise it" in result.stderr
    assert not path.exists()


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("command", ["plan", "run"])
def test_jobs_need_a_storage(command: str) -> None:
    result = rlvr(command, TINY, "--on", "pytorchjob", "--platform-set", "image=a")

    assert result.exit_code == 2
    assert "give --storage s3://bucket/prefix" in result.stderr


@pytest.mark.usefixtures("no_cluster")
def test_a_plan_without_an_image_names_the_config_map() -> None:
    result = rlvr("plan", TINY, "--on", "pytorchjob", "--storage", "s3://bucket/runs")

    assert result.exit_code == 2
    assert "give --platform-set image=NAME@sha256:…" in result.stderr


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    result = rlvr("plan", TINY, *JOBS, "--platform-set", "quue=x")

    assert result.exit_code == 2
    assert "quue" in result.stderr
    assert "'queue'" in result.stderr


@pytest.mark.usefixtures("no_cluster")
def test_a_run_that_does_not_fit_does_not_begin(tmp_path: Path) -> None:
    result = rlvr("run", TINY, *JOBS, "--nodes", "3", "--run-dir", str(tmp_path / "run"),
                  "--set", "grpo.generation_batch_size=128")  # fmt: skip

    assert result.exit_code == 2
    assert "3 processes of" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_cluster")
def test_a_run_whose_model_steps_are_jobs_hands_its_settings_to_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def run_pipeline(recipe: Recipe, path: Path, *, arguments: dict[str, Any]) -> RunDir:
        given.update(arguments)
        run_dir = RunDir(path)
        write_json(run_dir.evaluation, evaluation_at(0))
        return run_dir

    monkeypatch.setattr("rlvr_pipelines.local.runner.run_pipeline", run_pipeline)
    result = rlvr("run", TINY, *JOBS, "--run-dir", str(tmp_path / "run"), "--nodes", "2")

    assert result.exit_code == 0, result.stderr
    assert given == {
        "job_place": "pytorchjob",
        "storage_uri": "s3://bucket/runs",
        "job_num_nodes": 2,
        "job_platform": '{"image": "a@sha256:1"}',
    }

    limited = ("run", TINY, *ON_G5, "--run-dir", str(tmp_path / "limited"))
    assert rlvr(*limited, "--max-cost-usd", "3").exit_code == 0
    seconds = json.loads(given["job_platform"])["run_timeout_s"]
    assert 600 < seconds < 3 * 3600 / 1.006  # the evaluations take their share


@pytest.mark.usefixtures("no_cluster")
def test_the_command_that_resumes_has_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_pipeline(recipe: Recipe, path: Path, **_: Any) -> RunDir:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("rlvr_pipelines.local.runner.run_pipeline", run_pipeline)

    result = rlvr("run", TINY, *JOBS, "--platform-set", "queue=q", "--output", "json")

    again = result.stderr.rstrip().partition("To resume: ")[2].split()
    assert again[:3] == ["rlvr", "run", TINY]
    assert sorted(again[3:]) == sorted([*JOBS, "--platform-set", "queue=q", "--output", "json"])
