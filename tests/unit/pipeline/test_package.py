import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr_components.platform.images import Images
from rlvr_pipelines.pipeline.job_parameters import job_parameters
from rlvr_pipelines.pipeline.package import compile_package, parse_images
from rlvr_trainer import __version__
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import load_recipe, parse_recipe
from rlvr_trainer.recipe.schema import Recipe

TINY = Path(__file__).parents[2] / "tiny.yaml"


def recipe() -> Recipe:
    return load_recipe(TINY)


def caching(spec: Any) -> set[str]:
    """Return the tasks of all groups whose outputs may be reused."""
    components = [spec["root"], *spec["components"].values()]
    tasks = [
        task
        for component in components
        for task in component.get("dag", {}).get("tasks", {}).items()
    ]
    return {name for name, task in tasks if task.get("cachingOptions", {}).get("enableCache")}


@pytest.mark.parametrize("arguments", [(), ("--kubernetes-manifests", "--namespace", "kubeflow")])
def test_two_processes_write_the_same_bytes(arguments: tuple[str, ...], tmp_path: Path) -> None:
    written = []
    for hash_seed in ("1", "2"):
        target = tmp_path / hash_seed / "pipeline.yaml"
        target.parent.mkdir()
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry),
        }
        code = "from rlvr_pipelines.cli import main; main()"
        command = [sys.executable, "-c", code, "compile", str(TINY), "-o", target.name, *arguments]
        subprocess.run(command, env=environment, cwd=target.parent, check=True, timeout=120)
        written.append(target.read_bytes())

    assert written[0] == written[1]


def test_a_package_is_named_by_recipe_and_version() -> None:
    package = compile_package(recipe())

    assert package.name == "rlvr-tiny"
    assert package.version == f"{__version__}-{recipe().hash}"
    assert package.spec.get("pipeline_spec", package.spec)["pipelineInfo"]["name"] == "rlvr-tiny"


def test_the_recipe_is_the_forms_default() -> None:
    spec = compile_package(recipe()).spec
    parameters = spec.get("pipeline_spec", spec)["root"]["inputDefinitions"]["parameters"]

    assert parse_recipe(parameters["recipe"]["defaultValue"]) == recipe()


def test_a_field_without_a_value_is_in_the_form_too() -> None:
    given = load_recipe(TINY, ["grpo.delta=null"])
    spec = compile_package(given).spec
    parameters = spec.get("pipeline_spec", spec)["root"]["inputDefinitions"]["parameters"]

    assert parse_recipe(parameters["recipe"]["defaultValue"]) == given


def test_images_are_replaced_by_name() -> None:
    images = parse_images(("trainer=registry.example.com/t@sha256:1",))

    text = compile_package(recipe(), images=images).text

    assert "image: registry.example.com/t@sha256:1\n" in text
    assert f"image: {Images().trainer}\n" not in text
    assert f"image: {Images().components}\n" in text


@pytest.mark.parametrize("value", ["gpu=x", "trainer", "trainer=", "trainer=a b", "=x"])
def test_an_unknown_image_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer=REGISTRY/NAME@sha256"):
        parse_images((value,))


def test_without_cache_no_step_is_reused_in_any_group() -> None:
    with_cache, without = compile_package(recipe()), compile_package(recipe(), use_cache=False)

    assert caching(with_cache.spec.get("pipeline_spec", with_cache.spec))
    assert not caching(without.spec.get("pipeline_spec", without.spec))
    assert compile_package(recipe()) == with_cache  # the setting does not persist


def test_manifests_are_a_pipeline_and_a_version_of_it() -> None:
    package = compile_package(recipe(), manifest_namespace="kubeflow")
    pipeline, version = yaml.safe_load_all(package.text)

    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {document["metadata"]["namespace"] for document in (pipeline, version)} == {"kubeflow"}
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "rlvr-tiny"
    assert version["metadata"]["name"] == f"rlvr-tiny-{package.version}"
    assert version["spec"]["pipelineSpec"]["pipelineInfo"]["name"] == "rlvr-tiny"


def test_manifests_without_a_namespace_go_where_kubectl_is() -> None:
    documents = yaml.safe_load_all(compile_package(recipe(), manifest_namespace="").text)

    assert all("namespace" not in document["metadata"] for document in documents)


def test_sagemakers_settings_are_one_parameter() -> None:
    settings = {"role_arn": "arn:aws:iam::123456789012:role/rlvr", "instance_count": 2}
    chosen = job_parameters(
        place="sagemaker", namespace="team", storage="s3://bucket/runs", settings=settings
    )
    assert chosen == {
        "job_place": "sagemaker",
        "storage_uri": "s3://bucket/runs",
        "job_sagemaker": json.dumps(settings, sort_keys=True),
    }
