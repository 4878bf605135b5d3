from pathlib import Path
from typing import Any

import pytest

from rlvr_components.preflight import form as form_module
from rlvr_components.preflight.form import (
    Form,
    check_storage,
    place_of,
    resolve_platform,
    resolve_recipe,
)
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.storage import LocalStorage

IMAGE = "image: r.example/t@sha256:0\n"
INLINE = {
    "name": "mine",
    "task": "arithmetic",
    "model": {"name": "embedded:smollm2-135m-instruct"},
}


def form(**fields: Any) -> Form:
    return Form(**{"recipe": {"extends": "arithmetic"}, **fields})


@pytest.mark.parametrize(
    "overrides",
    [
        {"training.max_steps": 3, "seed": 5},
        {"training": {"max_steps": 3.0}, "seed": 5},  # KFP's numbers are floats
    ],
)
def test_a_shipped_recipe_with_overrides(overrides: dict[str, Any]) -> None:
    recipe = resolve_recipe(form(recipe_overrides=overrides))

    assert (recipe.name, recipe.training.max_steps, recipe.seed) == ("arithmetic", 3, 5)
    assert recipe.training.save_steps == resolve_recipe(form()).training.save_steps


def test_integers_come_back_from_kfp_as_they_were() -> None:
    tree = {"extends": "arithmetic", "grpo": {"num_iterations": 2.0}, "lora": {"r": 4.0}}

    recipe = resolve_recipe(form(recipe=tree))

    assert isinstance(recipe.grpo["num_iterations"], int), "TRL refuses a float"
    assert recipe.lora.r == 4


def test_an_override_may_be_any_text() -> None:
    overrides = {"description": "#### 1: \U0001f600\n'\"", "prompt": {"num_shots": 1}}

    recipe = resolve_recipe(form(recipe_overrides=overrides))

    assert (recipe.description, recipe.prompt.num_shots) == (overrides["description"], 1)


@pytest.mark.parametrize("is_short", [True, False])
def test_a_recipe_may_be_written_into_the_form(is_short: bool) -> None:
    tree = INLINE if is_short else resolve_recipe(form(recipe=INLINE)).model_dump(mode="json")

    assert resolve_recipe(form(recipe=tree, recipe_overrides={"seed": 5})).seed == 5
    assert resolve_recipe(form(recipe=tree)).name == "mine"


def test_a_recipe_in_the_form_may_extend_a_shipped_one() -> None:
    assert resolve_recipe(form(recipe={"extends": "arithmetic", "name": "mine"})).seed == 1


def test_the_form_names_another_model_and_shots() -> None:
    recipe = resolve_recipe(
        form(model_name="Qwen/Qwen2.5-0.5B", model_revision="060db64", evaluation_shots=[0.0, 8.0])
    )

    assert (recipe.model.name, recipe.model.revision) == ("Qwen/Qwen2.5-0.5B", "060db64")
    assert recipe.evaluation.shots == (0, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": {}}, "recipe is empty; write {.extends.: .NAME.}"),
        (
            {"recipe": {"extends": "aritmetic"}},
            "'aritmetic' is neither a file nor a shipped recipe .*did you mean 'arithmetic'",
        ),
        ({"recipe": {"name": "x", "nonsense": 1}}, "nonsense: unknown field"),
        ({"recipe_overrides": {"sede": 1}}, "sede: unknown field"),
        ({"model_name": "Qwen/Qwen2.5-0.5B"}, "without a revision"),
        ({"evaluation_shots": ["8"]}, "evaluation_shots: '8' is not a number of shots"),
        ({"evaluation_shots": [99]}, "99 shots, but data.num_exemplars"),
        (
            {"recipe": {**INLINE, "data": {"train": "rows.jsonl"}}},
            "data.train: 'rows.jsonl' is a rel",
        ),
        ({"recipe": {"extends": "./base.yaml"}}, "extends: './base.yaml' is a relative path"),
        (
            {"recipe": {"extends": "arithmetic", "task": "my/task.py:Mine"}},
            "task: 'my/task.py:Mine' is a",
        ),
        (
            {"recipe_overrides": {"rewards.r.function": "./f.py:g"}},
            "rewards.r.function: './f.py:g' is",
        ),
        ({"model_name": "~/model", "model_revision": "x"}, "model.name: '~/model' is a relative"),
    ],
)
def test_a_form_that_cannot_work_says_what_to_change(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_recipe(form(**fields))


def test_paths_that_the_pods_have_and_uris_are_kept() -> None:
    recipe = resolve_recipe(
        form(
            recipe=INLINE,
            recipe_overrides={"data.train": "/mnt/rows.jsonl", "data.test": "s3://b/t.jsonl"},
        )
    )

    assert (recipe.data.train, recipe.data.test) == ("/mnt/rows.jsonl", "s3://b/t.jsonl")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"one of local, pytorchjob, trainjob, sagemaker .got 'pytorchjobs'.*did you mean",
    ):
        place_of(form(job_place="pytorchjobs"))


def test_a_step_without_torch_cannot_train_in_its_own_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_module, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match="holds no torch; choose pytorchjob"):
        place_of(form(job_place="local"))


def test_the_form_goes_before_the_namespaces_own_settings() -> None:
    config_map = IMAGE + "num_nodes: 2\ngpus_per_node: 8\nqueue: slow\nnode_selector: {zone: a}\n"

    platform = resolve_platform(
        form(
            job_platform="queue: fast\nservice_account: mine",
            job_num_nodes=4,
            job_namespace="team",
            job_node_selector={"gpu": "h200"},
            job_tolerations=[{"key": "gpu", "operator": "Exists"}],
        ),
        config_map,
    )

    assert platform.image == "r.example/t@sha256:0"
    assert (platform.num_nodes, platform.gpus_per_node) == (4, 8)
    assert (platform.queue, platform.service_account) == ("fast", "mine")
    assert platform.namespace == "team"
    assert platform.node_selector == {"zone": "a", "gpu": "h200"}
    assert platform.tolerations == ({"key": "gpu", "operator": "Exists"},)


def test_the_platforms_settings_are_used_unless_the_form_sets_them() -> None:
    platform = resolve_platform(form(), IMAGE + "num_nodes: 2\ngpus_per_node: 8\n")

    assert (platform.num_nodes, platform.gpus_per_node) == (2, 8)
    assert (
        resolve_platform(form(job_gpus_per_node=0), IMAGE + "gpus_per_node: 8").gpus_per_node == 0
    )


@pytest.mark.parametrize(
    ("job_platform", "config_map", "message"),
    [
        ("", "", "name no image for the jobs; apply the ConfigMap"),
        ("[1]", IMAGE, "job_platform holds list"),
        ("a: [", IMAGE, "job_platform is neither JSON nor YAML"),
        ("num_nodes: none", IMAGE, "num_nodes"),
        ("nodes: 2", IMAGE, "nodes: unknown"),
    ],
)
def test_settings_that_cannot_work_say_where_and_why(
    job_platform: str, config_map: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_platform(form(job_platform=job_platform), config_map)


def test_a_storage_is_tried_and_nothing_is_left_there(tmp_path: Path) -> None:
    check_storage(str(tmp_path / "runs"))

    assert list((tmp_path / "runs").iterdir()) == []


class NothingIsDeleted(LocalStorage):
    """Storage of an identity that may only read and write, as trainers have it."""

    def delete(self, key: str) -> None:
        raise ConfigError("grant this identity s3:DeleteObject there")


def test_an_identity_without_delete_may_store_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(form_module, "open_storage", lambda uri: NothingIsDeleted(Path(uri)))
    caplog.set_level("INFO")

    check_storage(str(tmp_path))

    assert form_module.can_write(str(tmp_path))
    assert "the probe was not deleted: grant this identity s3:DeleteObject" in caplog.text


def test_a_probe_that_cannot_be_read_is_not_hidden_by_one_that_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WriteOnly(NothingIsDeleted):
        def read_bytes(self, key: str) -> bytes:
            raise ConfigError("grant this identity s3:GetObject there")

    monkeypatch.setattr(form_module, "open_storage", lambda uri: WriteOnly(Path(uri)))

    with pytest.raises(ConfigError, match="s3:GetObject"):
        check_storage(str(tmp_path))


@pytest.mark.parametrize("scheme", ["minio", "gs", "https"])
def test_a_storage_that_pods_cannot_write_to_is_refused(scheme: str) -> None:
    with pytest.raises(ConfigError, match="neither s3://bucket/prefix nor a path"):
        check_storage(f"{scheme}://bucket/x")


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be written"):
        check_storage(str(tmp_path / "file" / "runs"))


def test_a_path_of_this_step_does_not_show_in_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_recipe(form(recipe={"name": "UPPER"}))

    assert str(caught.value).startswith("recipe is not a valid recipe")
