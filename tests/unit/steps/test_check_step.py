"""Test the check step for a run in a cluster, with a fake API server that allows everything."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.kubernetes.api_errors import ObjectNotFound
from rlvr_components.preflight.form import Form
from rlvr_components.steps.check_step import check
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.variables import RUN_ID_VARIABLE

RUN_ID = "0b1f6d3e"


class FakeApi:
    namespace = "team"
    tried: list[dict[str, Any]]

    def __init__(self) -> None:
        FakeApi.tried = []

    def get(self, path: str) -> dict[str, Any]:
        if path == "/apis/kubeflow.org/v1":
            return {"resources": [{"name": "pytorchjobs"}]}
        if path.endswith("/resourcequotas"):
            return {"items": []}
        raise ObjectNotFound(path)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"status": {"allowed": True}}

    def try_to_create(self, path: str, body: dict[str, Any]) -> None:
        FakeApi.tried.append(body)


class FakeBackend:
    def render(self, spec: Any) -> dict[str, Any]:
        return {"metadata": {"name": spec.name}}


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ID_VARIABLE, RUN_ID)
    monkeypatch.setattr("rlvr_components.kubernetes.client.KubernetesApi", FakeApi)
    monkeypatch.setattr("rlvr_components.jobs.cluster.open_backend", lambda *_: FakeBackend())


def form(**fields: Any) -> Form:
    return Form(
        {"extends": "arithmetic"}, job_platform='{"image": "r.example/t@sha256:0"}', **fields
    )


def test_a_valid_form_leaves_its_settings_for_the_launching_steps(tmp_path: Path) -> None:
    checked = check(form(job_num_nodes=2), storage_uri=str(tmp_path))

    settings = json.loads((tmp_path / RUN_ID / "launch.json").read_text())
    assert settings["platform"]["num_nodes"] == 2
    assert checked.job_image == "r.example/t@sha256:0"
    [tried] = FakeApi.tried
    assert tried["metadata"]["name"].startswith("rlvr-arithmetic-train-")
    assert [path.name for path in (tmp_path / RUN_ID).iterdir()] == ["launch.json"]


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    odd = form(job_num_nodes=3, recipe_overrides={"grpo.generation_batch_size": 64})

    with pytest.raises(ConfigError, match=r"3 processes of .* take a multiple of"):
        check(odd, storage_uri=str(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_what_trl_refuses_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    refused = form(recipe_overrides={"grpo.auto_find_batch_size": True})

    with pytest.raises(ConfigError, match="TRL refuses the recipe"):
        check(refused, storage_uri=str(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_vllm_must_be_where_the_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr_trainer.grpo.trl_refusals.find_spec", lambda name: None)
    overrides = {"grpo.use_vllm": True}

    with pytest.raises(ConfigError, match="pip install vllm"):
        check(form(job_place="local", recipe_overrides=overrides))

    check(form(recipe_overrides=overrides), storage_uri=str(tmp_path))  # the pods may have it
