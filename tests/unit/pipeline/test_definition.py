import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.pipeline_spec import pipeline_spec_pb2

from rlvr_components.platform.images import Images
from rlvr_components.platform.settings import SECRET_KEYS
from rlvr_pipelines.pipeline.definition import build
from rlvr_trainer import __version__
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe, shipped_recipes

SHIPPED = shipped_recipes()
GOLDEN = Path(__file__).with_name("golden") / "rlvr-gsm8k.yaml"
"""Written by `RLVR_REWRITE_GOLDEN=1 pytest` on this file; read the difference before a commit."""

COMPILE = (
    "import sys; from pathlib import Path; "
    "from rlvr_trainer.recipe.reader import load_recipe; "
    "from rlvr_pipelines.pipeline.package import compile_pipeline; "
    "compile_pipeline(load_recipe('gsm8k'), Path(sys.argv[1]))"
)
LAUNCHERS = ("evaluate-base", "train", "evaluate-trained")


def compile_apart(path: Path, hash_seed: str) -> str:
    """Compile in a separate process and directory."""
    path.parent.mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": _python_path()}
    command = [sys.executable, "-c", COMPILE, str(path)]
    subprocess.run(command, env=environment, cwd=path.parent, check=True, timeout=120)
    return path.read_text("utf-8")


def _python_path() -> str:
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)


def load(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pipeline and its Kubernetes settings by executor."""
    spec, platform = yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_apart(tmp_path_factory.mktemp("one") / "a" / "pipeline.yaml", "1")


@pytest.fixture(scope="module")
def spec(compiled: str) -> dict[str, Any]:
    return load(compiled)[0]


@pytest.fixture(scope="module")
def on_kubernetes(compiled: str) -> dict[str, Any]:
    return load(compiled)[1]


@pytest.fixture(scope="module")
def tasks(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the tasks within the exit handler."""
    tasks_of_group: dict[str, Any] = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    return tasks_of_group


def is_reused(task: dict[str, Any]) -> bool:
    return bool(task.get("cachingOptions", {}).get("enableCache"))


def normalised(text: str) -> str:
    """Remove the versions of kfp and of our packages."""
    text = re.sub(r"sdkVersion: .*", "sdkVersion: any", text)
    return text.replace(f":{__version__}", ":any")


def test_the_pipeline_is_the_golden_one(compiled: str) -> None:
    if os.environ.get("RLVR_REWRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(normalised(compiled), "utf-8")
    assert normalised(compiled) == GOLDEN.read_text("utf-8")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_compiles_to_the_golden_pipeline_with_itself_as_the_default(
    name: str, tmp_path: Path
) -> None:
    from rlvr_pipelines.pipeline.package import compile_pipeline

    recipe = load_recipe(name)
    compile_pipeline(recipe, tmp_path / "pipeline.yaml")

    text = (tmp_path / "pipeline.yaml").read_text("utf-8")
    spec, on_kubernetes = load(normalised(text))
    golden, golden_on_kubernetes = load(GOLDEN.read_text("utf-8"))
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed.pipeline_info.name == f"rlvr-{name}"
    default = spec["root"]["inputDefinitions"]["parameters"]["recipe"].pop("defaultValue")
    assert parse_recipe(default) == recipe
    golden["root"]["inputDefinitions"]["parameters"]["recipe"].pop("defaultValue")
    golden["pipelineInfo"]["name"] = f"rlvr-{name}"
    assert spec == golden
    assert on_kubernetes == golden_on_kubernetes


def test_the_same_recipe_compiles_to_the_same_bytes(compiled: str, tmp_path: Path) -> None:
    assert compile_apart(tmp_path / "b" / "other-name.yaml", "2") == compiled


def test_nothing_of_this_machine_is_in_the_yaml(compiled: str) -> None:
    assert str(Path(__file__).parents[3]) not in compiled
    assert sys.prefix not in compiled


def test_every_parameter_has_a_default_and_a_description(spec: dict[str, Any]) -> None:
    for name, parameter in spec["root"]["inputDefinitions"]["parameters"].items():
        assert "defaultValue" in parameter, name
        assert parameter["description"].endswith("."), name


def test_the_form_reads_well_in_the_order_of_the_alphabet(spec: dict[str, Any]) -> None:
    assert sorted(spec["root"]["inputDefinitions"]["parameters"]) == [
        "evaluation_shots",
        "job_gpus_per_node", "job_namespace", "job_node_selector", "job_num_nodes", "job_place",
        "job_platform", "job_queue", "job_sagemaker", "job_tolerations",
        "model_name", "model_revision",
        "publish_merge", "publish_uri",
        "recipe", "recipe_overrides",
        "storage_uri",
        "train_reuse",
    ]  # fmt: skip


def test_the_base_evaluation_and_the_training_need_only_the_data(tasks: dict[str, Any]) -> None:
    needed = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}

    assert needed["check"] == set()
    assert needed["prepare-data"] == {"check"}
    assert needed["evaluate-base"] == needed["train"] == {"check", "prepare-data"}
    assert needed["evaluate-trained"] == {"check", "prepare-data", "train"}
    assert needed["compare-and-report"] == {
        "check", "prepare-data", "evaluate-base", "train", "evaluate-trained"
    }  # fmt: skip


def test_the_last_step_runs_in_any_case_and_leaves_nothing_running(spec: dict[str, Any]) -> None:
    root = spec["root"]["dag"]["tasks"]

    assert root.keys() == {"exit-handler-1", "finish"}
    assert root["finish"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert not is_reused(root["finish"])
    status = root["finish"]["inputs"]["parameters"]["status"]
    assert status == {"taskFinalStatus": {"producerTask": "exit-handler-1"}}


def test_every_step_of_a_run_that_succeeds_has_run(
    spec: dict[str, Any], tasks: dict[str, Any]
) -> None:
    # KFP shows a group of a condition that is not met as running, for ever
    assert not any("triggerPolicy" in task for task in tasks.values())
    groups = [name for name, component in spec["components"].items() if "dag" in component]
    assert groups == ["comp-exit-handler-1"]
    inputs = tasks["publish"]["inputs"]["parameters"]
    assert inputs["uri"] == {"componentInputParameter": "pipelinechannel--publish_uri"}
    assert inputs["is_better"]["taskOutputParameter"]["producerTask"] == "compare-and-report"


def test_the_form_has_an_editor_for_the_recipe(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]

    for name in ("recipe", "recipe_overrides"):
        assert parameters[name]["parameterType"] == "STRUCT", "a string is a line of text"
    assert parameters["recipe"]["defaultValue"]["name"] == "gsm8k"
    assert len(parameters["recipe"]["defaultValue"]) < 12, "what its author wrote, no default"


def test_cached_steps_get_only_the_inputs_that_they_depend_on(tasks: dict[str, Any]) -> None:
    reused = {name for name, task in tasks.items() if is_reused(task)}
    inputs = {
        name: {
            parameter: source["taskOutputParameter"]["outputParameterKey"]
            for parameter, source in tasks[name]["inputs"]["parameters"].items()
            if "taskOutputParameter" in source
        }
        for name in reused
    }

    assert inputs == {
        "prepare-data": {"recipe": "data_recipe", "identity": "data_identity"},
        "evaluate-base": {"recipe": "base_recipe", "storage": "storage", "job_image": "job_image"},
        # each run has its own key, unless the user asks for an earlier training
        "train": {
            "recipe": "resolved_recipe",
            "storage": "storage",
            "job_image": "job_image",
            "reuse_key": "reuse_key",
        },
        "evaluate-trained": {
            "recipe": "resolved_recipe",
            "storage": "storage",
            "job_image": "job_image",
        },
    }


def test_artifacts_are_typed(spec: dict[str, Any]) -> None:
    outputs = {
        f"{component.removeprefix('comp-')}.{name}": artifact["artifactType"]["schemaTitle"]
        for component, definition in spec["components"].items()
        for name, artifact in definition.get("outputDefinitions", {}).get("artifacts", {}).items()
    }

    assert outputs == {
        "check.plan": "system.Markdown",
        "prepare-data.data": "system.Dataset",
        "prepare-data.metrics": "system.Metrics",
        "evaluate-base.samples": "system.Dataset",
        "evaluate-base.metrics": "system.Metrics",
        "train.adapter": "system.Model",
        "train.history": "system.Dataset",
        "train.metrics": "system.Metrics",
        "evaluate-trained.samples": "system.Dataset",
        "evaluate-trained.model": "system.Model",
        "evaluate-trained.metrics": "system.Metrics",
        "compare-and-report.evaluation": "system.Artifact",
        "compare-and-report.samples": "system.Dataset",
        "compare-and-report.report": "system.HTML",
        "compare-and-report.summary": "system.Markdown",
        "compare-and-report.metrics": "system.Metrics",
        "publish.published": "system.Markdown",
        "finish.outcome": "system.Markdown",
    }


def test_every_pod_is_restricted_and_knows_its_run(
    spec: dict[str, Any], on_kubernetes: dict[str, Any]
) -> None:
    executors = spec["deploymentSpec"]["executors"]

    assert on_kubernetes.keys() == executors.keys()
    for name, settings in on_kubernetes.items():
        assert settings["securityContext"] == {"runAsNonRoot": True}, name
        fields = {
            variable["name"]: variable["fieldPath"] for variable in settings["fieldPathAsEnv"]
        }
        assert fields == {
            "RLVR_RUN_ID": "metadata.labels['pipeline/runid']",
            "RLVR_NAMESPACE": "metadata.namespace",
        }


def test_steps_have_deadlines_and_those_that_follow_jobs_are_retried(
    tasks: dict[str, Any], on_kubernetes: dict[str, Any]
) -> None:
    limited = {
        name for name, executor in on_kubernetes.items() if executor.get("activeDeadlineSeconds")
    }
    retried = {name for name, task in tasks.items() if "retryPolicy" in task}

    # a job has its own deadlines for the queue and the run
    assert on_kubernetes.keys() - limited == {f"exec-{name}" for name in LAUNCHERS}
    assert retried == set(LAUNCHERS)


def test_a_launcher_may_be_lost_on_any_day_of_its_training(tasks: dict[str, Any]) -> None:
    for name in LAUNCHERS:
        policy = tasks[name]["retryPolicy"]
        # KFP's default, 3600s, is Argo's deadline for all attempts together
        assert policy["backoffMaxDuration"] == f"{364 * 86_400}s"
        # a permanent error is retried too, by some configurations of Argo
        assert (policy["maxRetryCount"], policy["backoffDuration"]) == (2, "5s")


def test_launchers_keep_their_nodes(on_kubernetes: dict[str, Any]) -> None:
    annotated = {
        name: settings["podMetadata"]["annotations"]
        for name, settings in on_kubernetes.items()
        if "podMetadata" in settings
    }

    assert annotated == {
        f"exec-{name}": {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
        }
        for name in LAUNCHERS
    }


def test_kfp_settings_of_a_model_step_apply_to_its_job(spec: dict[str, Any]) -> None:
    for name in LAUNCHERS:
        component = spec["components"][f"comp-{name}"]
        passed = {setting["field"]: setting.get("applyToTask") for setting in
                  component["taskConfigPassthroughs"]}  # fmt: skip

        assert passed == {
            "RESOURCES": None,
            "KUBERNETES_TOLERATIONS": None,
            "KUBERNETES_NODE_SELECTOR": None,
            "KUBERNETES_AFFINITY": None,
            "ENV": True,
            "KUBERNETES_VOLUMES": True,
        }
        parameters = component["inputDefinitions"]["parameters"]
        assert parameters["task_config"]["parameterType"] == "TASK_CONFIG"


def test_images_are_versioned_and_nothing_is_installed_at_run_time(spec: dict[str, Any]) -> None:
    containers = {
        name.removeprefix("exec-"): executor["container"]
        for name, executor in spec["deploymentSpec"]["executors"].items()
    }

    with_torch = {
        name for name, container in containers.items() if "rlvr-trainer:" in container["image"]
    }
    assert with_torch == {"prepare-data", "publish"}
    assert {container["image"] for container in containers.values()} == {
        f"rlvr-trainer:{__version__}",
        f"rlvr-components:{__version__}",
    }
    assert not any(
        "pip" in part for container in containers.values() for part in container["command"][:3]
    )


def test_custom_images_by_digest_and_a_secret_by_name(tmp_path: Path) -> None:
    images = Images(trainer="r.example/t@sha256:1", components="r.example/c@sha256:2")
    path = tmp_path / "pipeline.yaml"
    compiler.Compiler().compile(build(images, secret="s3-keys"), str(path))

    text = path.read_text("utf-8")
    spec, on_kubernetes = load(text)
    used = {
        executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()
    }
    assert used == {images.trainer, images.components}
    for settings in on_kubernetes.values():
        (secret,) = settings["secretAsEnv"]
        assert (secret["secretName"], secret["optional"]) == ("s3-keys", True)
        assert [key["envVar"] for key in secret["keyToEnv"]] == list(SECRET_KEYS)
        assert {"AWS_REGION", "AWS_DEFAULT_REGION"} <= set(SECRET_KEYS)
