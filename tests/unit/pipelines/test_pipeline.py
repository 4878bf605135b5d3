import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr_trainer import __version__
from rlvr_trainer.recipe_file import load_recipe, shipped_recipes

SHIPPED = shipped_recipes("rlvr_pipelines")
COMPILE = (
    "import sys; from pathlib import Path; "
    "from rlvr_trainer.recipe_file import load_recipe, shipped_recipes; "
    "from rlvr_pipelines.compile import compile_pipeline; "
    "shipped = shipped_recipes('rlvr_pipelines'); "
    "compile_pipeline(load_recipe('arithmetic', shipped=shipped), Path(sys.argv[1]))"
)


def compile_apart(path: Path, hash_seed: str) -> bytes:
    """Compile in a process and a directory of its own."""
    path.parent.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": _python_path()}
    command = [sys.executable, "-c", COMPILE, str(path)]
    subprocess.run(command, env=environment, cwd=path.parent, check=True, timeout=120)
    return path.read_bytes()


def _python_path() -> str:
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compile_apart(tmp_path_factory.mktemp("one") / "a" / "pipeline.yaml", "1")


@pytest.fixture(scope="module")
def spec(compiled: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(compiled)
    return loaded


def test_the_same_recipe_compiles_to_the_same_bytes(compiled: bytes, tmp_path: Path) -> None:
    assert compile_apart(tmp_path / "b" / "other-name.yaml", "2") == compiled


def test_nothing_of_this_machine_is_in_the_yaml(compiled: bytes) -> None:
    root = str(Path(__file__).parents[3])

    assert root.encode() not in compiled
    assert sys.prefix.encode() not in compiled


def test_the_recipe_is_the_default_of_its_parameter(spec: dict[str, Any]) -> None:
    recipe = load_recipe("arithmetic", shipped=SHIPPED)
    parameters = spec["root"]["inputDefinitions"]["parameters"]

    assert parameters["recipe"]["defaultValue"] == recipe.model_dump_json()
    assert spec["pipelineInfo"]["name"] == "rlvr-arithmetic"


def test_the_base_evaluation_and_the_training_need_only_the_data(spec: dict[str, Any]) -> None:
    tasks = spec["root"]["dag"]["tasks"]

    assert {name: sorted(task.get("dependentTasks", [])) for name, task in tasks.items()} == {
        "prepare-data": [],
        "evaluate-base": ["prepare-data"],
        "train": ["prepare-data"],
        "evaluate-trained": ["prepare-data", "train"],
        "compare-and-report": ["evaluate-base", "evaluate-trained", "prepare-data", "train"],
    }


def test_only_training_is_never_reused(spec: dict[str, Any]) -> None:
    tasks = spec["root"]["dag"]["tasks"]

    reused = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert reused == tasks.keys() - {"train"}


def test_artifacts_are_typed(spec: dict[str, Any]) -> None:
    outputs = {
        f"{component}.{name}": artifact["artifactType"]["schemaTitle"].removeprefix("system.")
        for component, definition in spec["components"].items()
        for name, artifact in definition["outputDefinitions"]["artifacts"].items()
        if name != "metrics"
    }

    assert outputs == {
        "comp-prepare-data.data": "Dataset",
        "comp-evaluate-base.samples": "Dataset",
        "comp-train.adapter": "Model",
        "comp-train.history": "Dataset",
        "comp-evaluate-trained.samples": "Dataset",
        "comp-compare-and-report.evaluation": "Artifact",
        "comp-compare-and-report.samples": "Dataset",
        "comp-compare-and-report.report": "HTML",
    }
    assert all(
        component["outputDefinitions"]["artifacts"]["metrics"]["artifactType"]["schemaTitle"]
        == "system.Metrics"
        for component in spec["components"].values()
    )


def test_images_are_versioned_and_nothing_is_installed_at_run_time(spec: dict[str, Any]) -> None:
    containers = [each["container"] for each in spec["deploymentSpec"]["executors"].values()]

    assert {container["image"] for container in containers} == {
        f"rlvr-trainer:{__version__}",
        f"rlvr-components:{__version__}",
    }
    assert not any("pip" in part for each in containers for part in each["command"][:3])


def test_every_task_has_a_phase() -> None:
    from rlvr_pipelines.pipeline import PHASE_BY_TASK, rlvr_pipeline
    from rlvr_pipelines.progress import TITLES

    assert set(PHASE_BY_TASK) == set(rlvr_pipeline.pipeline_spec.root.dag.tasks)
    assert list(PHASE_BY_TASK.values()) == list(TITLES)
