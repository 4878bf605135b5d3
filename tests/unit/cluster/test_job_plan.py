from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs.cluster import open_backend
from rlvr_components.pipeline_run import LaunchSettings
from rlvr_components.platform.settings import Platform
from rlvr_components.preflight.form import Form
from rlvr_components.steps import remote_step
from rlvr_components.steps.remote_step import Site
from rlvr_pipelines.cluster import job_plan
from rlvr_pipelines.cluster.job_plan import known_overrides, plan_job, platform_of, run_id_of
from rlvr_pipelines.pipeline.run_plan import measure, plan_in_cluster
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.batch import batch_of
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import RunDir
from rlvr_trainer.variables import RUN_ID_VARIABLE

PLATFORM = Platform(image="trainer@sha256:1", namespace="jobs", num_nodes=2, gpus_per_node=4)


def tiny(*overrides: str) -> Recipe:
    return load_recipe(Path(__file__).parents[2] / "tiny.yaml", overrides)


def api_that_answers(answers: dict[str, Any]) -> Any:
    """Return a fake of `KubernetesApi` that looks up its answers by path."""

    class Api:
        namespace = "default"

        def get(self, path: str) -> dict[str, Any]:
            from rlvr_components.kubernetes.api_errors import ObjectNotFound

            if path not in answers:
                raise ObjectNotFound(path)
            answer: dict[str, Any] = answers[path]
            return answer

    return Api


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Set up a cluster whose API server gives these answers."""
    answers: dict[str, Any] = {}
    monkeypatch.setattr(job_plan, "has_cluster", lambda: True)
    monkeypatch.setattr(
        "rlvr_components.kubernetes.client.KubernetesApi", api_that_answers(answers)
    )
    return answers


@pytest.mark.parametrize("place", ["pytorchjob", "trainjob"])
def test_the_planned_job_is_what_the_step_submits(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv(RUN_ID_VARIABLE, "tiny-0a1b2c3d4e5f")
    folder = f"{tmp_path}/tiny-0a1b2c3d4e5f"
    site = Site(folder, LaunchSettings(place, "tiny", PLATFORM))
    submitted = remote_step.job_spec("train", tiny(), folder, site)

    planned = plan_job(tiny(), place, PLATFORM, storage=str(tmp_path), run_id="tiny-0a1b2c3d4e5f")

    assert planned.spec == submitted
    assert planned.spec.env["NCCL_DEBUG"] == "INFO"


def test_its_object_is_the_one_that_the_launcher_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig = {
        "current-context": "one",
        "clusters": [{"name": "one", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    planned = plan_job(tiny(), "pytorchjob", PLATFORM, storage="s3://b", run_id="x")

    assert planned.manifest == open_backend("pytorchjob", PLATFORM).render(planned.spec)


def test_it_has_a_process_for_each_gpu_and_for_each_pod_without() -> None:
    def world_size(**settings: Any) -> int:
        platform = PLATFORM.model_copy(update=settings)
        job = plan_job(tiny(), "pytorchjob", platform, storage="s3://b", run_id="x")
        return job.world_size

    assert world_size() == 8
    assert world_size(gpus_per_node=0) == 2
    assert world_size(num_nodes=1, gpus_per_node=0) == 1


def test_a_plan_is_rendered_in_no_time() -> None:
    recipe = tiny()
    plan_job(recipe, "pytorchjob", PLATFORM, storage="s3://b", run_id="x")

    start = time.process_time()
    for _ in range(10):
        plan_job(recipe, "pytorchjob", PLATFORM, storage="s3://b", run_id="x")

    assert (time.process_time() - start) / 10 < 0.05


def test_the_batch_is_that_of_all_processes() -> None:
    recipe = tiny("training.per_device_batch_size=16", "sampling.num_generations=8")

    assert batch_of(recipe, 1) == recipe.device_generation_batch_size
    assert batch_of(recipe, 8) == 8 * recipe.device_generation_batch_size


@pytest.mark.parametrize(
    ("override", "world_size", "words"),
    [
        ("grpo.generation_batch_size=96", 4, "take a multiple of 64"),
        ("grpo.steps_per_generation=1", 1, "not whole groups of sampling.num_generations = 32"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused(
    override: str, world_size: int, words: str
) -> None:
    recipe = tiny(
        "training.per_device_batch_size=16",
        "training.gradient_accumulation_steps=2",
        "sampling.num_generations=32",
        override,
    )

    with pytest.raises(ConfigError, match=words):
        batch_of(recipe, world_size)


def test_more_processes_than_questions_are_refused() -> None:
    recipe = tiny("data.num_train_rows=60")

    assert measure(recipe, 1).num_steps
    with pytest.raises(ConfigError, match=r"one step takes \d+ questions.*lower"):
        measure(recipe, 64)
    job = plan_job(recipe, "pytorchjob", PLATFORM, storage="s3://b", run_id="x")
    large = replace(job, platform=PLATFORM.model_copy(update={"num_nodes": 64}))
    with pytest.raises(ConfigError, match="one step takes"):
        plan_in_cluster(recipe, Path("runs/x"), large)


def test_a_run_that_was_started_keeps_its_id(tmp_path: Path) -> None:
    assert run_id_of(tiny(), tmp_path) == "tiny-000000000000"

    RunDir(tmp_path).remote_id.write_text("tiny-0a1b2c3d4e5f\n")

    assert run_id_of(tiny(), tmp_path) == "tiny-0a1b2c3d4e5f"


def test_the_platform_is_the_namespaces_with_what_is_given_on_top(
    cluster: dict[str, Any],
) -> None:
    cluster["/api/v1/namespaces/jobs/configmaps/rlvr-platform"] = {
        "data": {"platform.yaml": "image: a\nnum_nodes: 4\nqueue: q\n"}
    }

    platform = platform_of(Form({}, job_namespace="jobs", job_num_nodes=2))

    assert (platform.image, platform.num_nodes, platform.queue) == ("a", 2, "q")
    assert platform.namespace == "jobs"


def test_without_one_the_config_map_is_named(cluster: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="namespace jobs has no ConfigMap rlvr-platform"):
        platform_of(Form({}, job_namespace="jobs"))


@pytest.mark.parametrize("settings", ["image: a", "queue: q\nimage: a", '{"image": "a"}'])
def test_an_image_may_be_given_in_any_way(settings: str, cluster: dict[str, Any]) -> None:
    assert platform_of(Form({}, job_platform=settings)).image == "a"


def test_the_clusters_trainer_says_how_settings_are_laid_over(cluster: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="install Kubeflow Trainer 2"):
        known_overrides("trainjob")

    spec = {"properties": {"podTemplateOverrides": {}}}
    cluster["/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"] = {
        "components": {"schemas": {"x.TrainJob": {"properties": {"spec": spec}}}}
    }
    assert known_overrides("trainjob") == "podTemplateOverrides"
