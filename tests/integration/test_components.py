"""Run every component as its container does: KFP's command, the executor input, outputs by file.

The trainer's steps are the fake of `tests/fake_trainer`. There is neither an image nor a
cluster.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlvr_pipelines.pipeline.definition import rlvr_pipeline

ROOT = Path(__file__).parents[2]
FAKE_TRAINER = ROOT / "tests" / "fake_trainer"
PACKAGES = [ROOT / "trainer", ROOT / "components", ROOT / "pipelines"]
RUN_ID = "5b0a6c1e-run"
FORM: dict[str, Any] = {
    "recipe": {"extends": "arithmetic"},
    "recipe_overrides": {"training.max_steps": 2},
    "model_name": "",
    "model_revision": "",
    "evaluation_shots": [],
    "job_place": "local",
    "job_namespace": "",
    "job_num_nodes": 0,
    "job_gpus_per_node": -1,
    "job_queue": "",
    "job_node_selector": {},
    "job_tolerations": [],
    "job_platform": "",
    "job_sagemaker": "",
    "storage_uri": "",
    "train_reuse": False,
    "publish_uri": "",
}


class Container:
    """Runs components in sequence, each in its own folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = rlvr_pipeline.pipeline_spec

    def run(
        self,
        name: str,
        parameters: Mapping[str, Any],
        artifacts: Mapping[str, dict[str, Any]] | None = None,
        **environment: str,
    ) -> "Outcome":
        """Run the IR's command with the executor input filled in, as KFP's launcher does."""
        folder = self.root / name
        outputs = folder / "tmp" / "kfp" / "outputs"
        outputs.mkdir(parents=True)
        definitions = self.spec.components[f"comp-{name}"].output_definitions
        executor_input = {
            "inputs": {
                "parameterValues": dict(parameters),
                "artifacts": {
                    key: {"artifacts": [value]} for key, value in (artifacts or {}).items()
                },
            },
            "outputs": {
                "parameters": {
                    key: {"outputFile": str(outputs / key)} for key in definitions.parameters
                },
                "artifacts": {
                    key: {
                        "artifacts": [
                            {
                                "name": f"{name}/{key}",
                                "uri": str(folder / RUN_ID / key),
                                "type": {"schemaTitle": definition.artifact_type.schema_title},
                                "metadata": {},
                            }
                        ]
                    }
                    for key, definition in definitions.artifacts.items()
                },
                "outputFile": str(folder / "executor_output.json"),
            },
        }
        container = self.spec.deployment_spec["executors"][f"exec-{name}"]["container"]
        arguments = [
            part.replace("{{$}}", json.dumps(executor_input)) for part in container["args"]
        ]
        done = subprocess.run(
            [*container["command"], *arguments],
            env={
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                "HOME": os.environ.get("HOME", "/"),
                "TMPDIR": str(self.root),
                "PYTHONPATH": os.pathsep.join(map(str, [FAKE_TRAINER, *PACKAGES])),
                "RLVR_RUN_ID": RUN_ID,
                "KUBECONFIG": "/nonexistent",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Outcome(done, executor_input["outputs"])


class Outcome:
    """The outputs of a component."""

    def __init__(self, done: "subprocess.CompletedProcess[str]", outputs: dict[str, Any]) -> None:
        self.done = done
        self.log = done.stdout + done.stderr
        self._outputs = outputs

    def parameter(self, name: str) -> str:
        return Path(self._outputs["parameters"][name]["outputFile"]).read_text()

    @property
    def executor_output(self) -> dict[str, Any]:
        """Read executor_output.json."""
        assert self.done.returncode == 0, self.log
        executor_output: dict[str, Any] = json.loads(Path(self._outputs["outputFile"]).read_text())
        return executor_output

    def artifact(self, name: str) -> dict[str, Any]:
        given: dict[str, Any] = self._outputs["artifacts"][name]["artifacts"][0]
        return {**given, **self.executor_output["artifacts"][name]["artifacts"][0]}


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_the_components_from_the_form_to_the_outcome(container: Container, tmp_path: Path) -> None:
    checked = container.run("check", FORM)
    assert checked.executor_output
    recipe = checked.parameter("resolved_recipe")
    assert json.loads(recipe)["training"]["max_steps"] == 2
    assert (checked.parameter("reuse_key"), checked.parameter("storage")) == (RUN_ID, "")
    assert "# arithmetic" in Path(checked.artifact("plan")["uri"]).read_text()

    prepared = container.run(
        "prepare-data",
        {
            "recipe": checked.parameter("data_recipe"),
            "identity": checked.parameter("data_identity"),
        },
    )
    data = prepared.artifact("data")
    assert prepared.artifact("metrics")["metadata"]["test"] == 40
    launched = {"place": "local", "storage": "", "job_image": ""}

    base = container.run(
        "evaluate-base",
        {"recipe": checked.parameter("base_recipe"), **launched},
        {"data": data},
    )
    assert base.artifact("metrics")["metadata"]["accuracy"] == 0.1

    trained = container.run(
        "train", {"recipe": recipe, "reuse_key": RUN_ID, **launched}, {"data": data}
    )
    adapter = trained.artifact("adapter")
    assert adapter["metadata"] == {
        "base_model": "embedded:smollm2-135m-instruct",
        "base_revision": "",
        "recipe_hash": adapter["metadata"]["recipe_hash"],
    }

    evaluated = container.run(
        "evaluate-trained", {"recipe": recipe, **launched}, {"data": data, "adapter": adapter}
    )
    model = evaluated.artifact("model")
    assert model["uri"] == adapter["uri"]
    assert model["metadata"] == {**adapter["metadata"], "accuracy": 0.8}

    compared = container.run(
        "compare-and-report",
        {"recipe": recipe},
        {
            "data": data,
            "before": base.artifact("samples"),
            "after": evaluated.artifact("samples"),
            "history": trained.artifact("history"),
        },
    )
    assert compared.executor_output["parameterValues"] == {"Output": True}
    assert compared.artifact("metrics")["metadata"] == {
        "accuracy_before": 0.1,
        "accuracy_after": 0.8,
        "mcnemar_p": pytest.approx(0, abs=1e-6),
    }
    assert "Repeat it" in Path(compared.artifact("summary")["uri"]).read_text()

    published = container.run(
        "publish",
        {"recipe": recipe, "uri": str(tmp_path / "models"), "merge": False, "is_better": True},
        {"model": model, "evaluation": compared.artifact("evaluation")},
    )
    where = Path(published.executor_output["parameterValues"]["Output"])
    assert where == tmp_path / "models" / "arithmetic" / RUN_ID
    assert "Accuracy rose from 10.0 % to 80.0 %" in (where / "README.md").read_text()
    assert (where / "weights").read_text() == "fake"

    status = {"state": "SUCCEEDED", "pipelineTaskName": "exit-handler-1",
              "pipelineJobResourceName": "rlvr-1", "error": {}}  # fmt: skip
    finished = container.run("finish", {"storage_uri": "", "status": status})
    assert Path(finished.artifact("outcome")["uri"]).read_text() == (
        "# Succeeded\n\nNo jobs were left running.\n"
    )


def test_a_form_that_cannot_work_fails_at_once_with_its_own_code(
    container: Container, tmp_path: Path
) -> None:
    events = tmp_path / "metrics.jsonl"

    form = {**FORM, "recipe": {"extends": "arithmetik"}}
    outcome = container.run("check", form, RLVR_EVENTS=str(events))

    assert outcome.done.returncode == 2
    assert "error: 'arithmetik' is neither a file nor a shipped recipe" in outcome.log
    assert json.loads(events.read_text())["phase"] == "check"


def test_without_a_cluster_no_job_is_promised(container: Container, tmp_path: Path) -> None:
    outcome = container.run(
        "check", {**FORM, "job_place": "pytorchjob", "storage_uri": str(tmp_path / "storage")}
    )

    assert outcome.done.returncode == 2
    assert "error: no cluster" in outcome.log


def test_without_a_storage_the_pipelines_own_must_be_one_for_pods(container: Container) -> None:
    outcome = container.run("check", {**FORM, "job_place": "pytorchjob"})

    assert outcome.done.returncode == 2
    assert "set storage_uri to s3://bucket/prefix" in outcome.log
