"""The steps of a pipeline whose jobs run on our fake of SageMaker."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.fake_sagemaker import FakeSageMaker
from tests.unit.sagemaker.launches import SETTINGS, UNTIL_TERMINATED, program

from rlvr_components.pipeline_run import read_settings, run_folder
from rlvr_components.preflight.form import Form
from rlvr_components.sagemaker import run_jobs
from rlvr_components.sagemaker.sagemaker_backend import SageMakerBackend
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_components.steps.check_step import check
from rlvr_components.steps.finish import finish
from rlvr_components.steps.remote_step import job_spec, open_site
from rlvr_components.steps.task_config import merge_task_environment
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.storage import open_storage

HERE = {
    **SETTINGS,
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/rlvr/rlvr-trainer:1",
    "keep_alive_s": 600,
}
FORM = Form(recipe={"extends": "arithmetic"}, job_place="sagemaker", job_sagemaker=json.dumps(HERE))


@pytest.fixture(autouse=True)
def run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_RUN_ID", "run-1")


def test_check_writes_the_settings_by_which_the_other_steps_launch(
    sagemaker: FakeSageMaker, s3: str
) -> None:
    checked = check(FORM, storage_uri=s3)
    assert checked.job_image == HERE["image"]
    assert "sagemaker, 1 node with 8 GPUs each" in checked.plan
    settings = read_settings(open_storage(run_folder(s3)))
    assert settings is not None
    assert settings.place == "sagemaker"
    assert settings.platform == SageMaker.model_validate(HERE)
    spec = job_spec("train", load_recipe("arithmetic"), f"{s3}/run-1", open_site(s3))
    assert spec.command[:4] == ("python", "-m", "rlvr_trainer", "launch")
    assert spec.resources.gpus_per_node == 8


def test_finish_stops_the_runs_live_jobs_and_releases_the_instances(
    sagemaker: FakeSageMaker, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_jobs, "POLL_S", 0.05)
    check(FORM, storage_uri=s3)
    site, recipe = open_site(s3), load_recipe("arithmetic")
    backend = SageMakerBackend(SageMaker.model_validate(HERE))
    names = []
    for step, code in (("evaluate-base", ""), ("train", UNTIL_TERMINATED)):
        sagemaker.command = program(code)
        spec: Any = job_spec(step, recipe, f"{s3}/run-1", site)  # type: ignore[arg-type]
        names.append(backend.submit(backend.render(backend.next_attempt(spec))))
        sagemaker.wait(names[-1], "Training" if code else "Completed")
    open_storage(run_folder(s3)).write_bytes("launched.json", b"true")

    text = finish(s3, "", "FAILED", "a step failed")

    assert f"`{names[1]}`" in text
    assert [sagemaker.jobs[name].status for name in names] == ["Completed", "Stopped"]
    assert {sagemaker.jobs[name].warm_pool for name in names} <= {"Reused", "Terminated"}


def test_a_tasks_variables_reach_the_job_and_settings_of_pods_are_refused() -> None:
    settings = SageMaker.model_validate(HERE)
    env = [
        {"name": "NCCL_DEBUG", "value": "INFO"},
        {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    merged = merge_task_environment(settings, SimpleNamespace(env=env))
    assert merged.env == {"NCCL_DEBUG": "INFO"}
    assert merge_task_environment(settings, None) == settings
    with pytest.raises(ConfigError, match="the task sets resources, which SageMaker's instances"):
        merge_task_environment(settings, SimpleNamespace(env=[], resources={"limits": {"cpu": 1}}))


def test_a_place_without_settings_is_refused(s3: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sagemaker FILE"):
        check(Form(recipe={"extends": "arithmetic"}, job_place="sagemaker"), storage_uri=s3)
    with pytest.raises(ConfigError, match="is not in S3"):
        check(FORM, storage_uri=str(tmp_path))
