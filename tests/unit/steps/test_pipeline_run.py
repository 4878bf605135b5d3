from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs import Owner
from rlvr_components.pipeline_run import (
    LaunchSettings,
    default_storage,
    owner_of_jobs,
    read_settings,
    run_folder,
    run_id,
    write_settings,
)
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError, PlatformError
from rlvr_trainer.storage import open_storage

WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "2"}
POD = {"metadata": {"name": "step-1", "uid": "1", "ownerReferences": [WORKFLOW]}}


@pytest.fixture(autouse=True)
def in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RLVR_RUN_ID": "b2c0",
        "RLVR_NAMESPACE": "team",
        "KFP_POD_NAME": "step-1",
        "KFP_POD_UID": "1",
    }.items():
        monkeypatch.setenv(name, value)


def get(path: str) -> dict[str, Any]:
    assert path == "/api/v1/namespaces/team/pods/step-1"
    return POD


def test_a_run_has_a_folder_of_its_own() -> None:
    assert run_folder("s3://bucket/rlvr/") == "s3://bucket/rlvr/b2c0"


def test_a_step_that_does_not_know_its_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLVR_RUN_ID")

    with pytest.raises(ConfigError, match="RLVR_RUN_ID is not set"):
        run_id()


def test_without_a_storage_run_directories_lie_beside_the_artifacts() -> None:
    uri = "s3://bucket/v2/artifacts/rlvr-gsm8k/b2c0/check/5ee1/plan"

    assert default_storage(uri) == "s3://bucket/v2/artifacts/rlvr-gsm8k/runs"


@pytest.mark.parametrize(
    "uri",
    ["minio://mlpipeline/v2/artifacts/p/b2c0/check/plan", "gs://b/b2c0/plan", "s3://b/x/plan"],
)
def test_artifacts_where_pods_cannot_write_need_a_storage(uri: str) -> None:
    with pytest.raises(ConfigError, match="set storage_uri to s3://bucket/prefix"):
        default_storage(uri)


def test_the_settings_of_a_launch_come_back_as_they_were(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert read_settings(storage) is None
    platform = Platform(image="r.example/t", tolerations=({"key": "gpu"},), env={"A": "1"})
    settings = LaunchSettings("trainjob", "tiny", platform, writes_artifacts=True)

    write_settings(storage, settings)

    assert read_settings(storage) == settings


def test_the_workflow_owns_the_jobs_of_its_steps() -> None:
    assert owner_of_jobs("", get) == Owner("argoproj.io/v1alpha1", "Workflow", "w", "2")
    assert owner_of_jobs("team", get) == owner_of_jobs("", get)


def test_a_pod_of_no_workflow_owns_them_itself() -> None:
    alone = {"metadata": {"name": "step-1", "uid": "1"}}

    assert owner_of_jobs("", lambda path: alone) == Owner("v1", "Pod", "step-1", "1")


def test_a_pod_that_cannot_be_read_is_the_owner() -> None:
    def fail(path: str) -> dict[str, Any]:
        raise PlatformError("no answer")

    assert owner_of_jobs("", fail) == Owner("v1", "Pod", "step-1", "1")


def test_an_owner_elsewhere_would_take_the_job_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert owner_of_jobs("other", get) is None
    monkeypatch.delenv("KFP_POD_NAME")
    assert owner_of_jobs("", get) is None
