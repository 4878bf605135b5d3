"""Test the checks before a job is submitted, with a fake API server."""

from typing import Any

import pytest

from rlvr_components.kubernetes.api_errors import ObjectNotFound
from rlvr_components.platform.settings import Platform
from rlvr_components.preflight.cluster_checks import (
    check_admitted,
    check_cluster,
    read_platform_map,
)
from rlvr_trainer.errors import ConfigError

PLATFORM = Platform(image="r.example/t@sha256:0", num_nodes=2, gpus_per_node=8)


class FakeApi:
    """A fake client that answers by path; other objects do not exist."""

    def __init__(self, answers: dict[str, Any], denied: tuple[str, ...] = ()) -> None:
        self.answers = answers
        self.denied = denied
        self.refused: list[dict[str, Any]] = []

    def get(self, path: str) -> dict[str, Any]:
        if path not in self.answers:
            raise ObjectNotFound(path)
        answer: dict[str, Any] = self.answers[path]
        return answer

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        asked = body["spec"]["resourceAttributes"]
        assert asked["namespace"] == "team"
        right = " ".join(filter(None, (asked["verb"], asked["resource"], asked["subresource"])))
        return {"status": {"allowed": right not in self.denied}}

    def try_to_create(self, path: str, body: dict[str, Any]) -> None:
        assert path == "/apis/kubeflow.org/v1/namespaces/team/pytorchjobs"
        if body in self.refused:
            raise ConfigError("denied request: no digest; set image")


def cluster(
    hard: int | str | None = None, used: int | str = 0, denied: tuple[str, ...] = ()
) -> FakeApi:
    quota = {
        "metadata": {"name": "gpus"},
        "spec": {"hard": {"requests.nvidia.com/gpu": str(hard)}},
        "status": {
            "hard": {"requests.nvidia.com/gpu": str(hard)},
            "used": {"requests.nvidia.com/gpu": str(used)},
        },
    }
    return FakeApi(
        {
            "/apis/kubeflow.org/v1": {"resources": [{"name": "pytorchjobs"}]},
            "/api/v1/namespaces/team/resourcequotas": {"items": [] if hard is None else [quota]},
        },
        denied,
    )


def test_a_cluster_that_can_run_the_job_has_no_remarks() -> None:
    assert check_cluster(cluster(), "pytorchjob", PLATFORM, "team") == []
    assert check_cluster(cluster(hard=32, used=16), "pytorchjob", PLATFORM, "team") == []


def test_a_missing_kind_is_reported_with_the_one_to_choose() -> None:
    with pytest.raises(ConfigError, match=r"does not have trainjobs.* or choose pytorchjob"):
        check_cluster(cluster(), "trainjob", PLATFORM, "team")


@pytest.mark.parametrize(
    ("denied", "missing"),
    [("delete pytorchjobs", "delete pytorchjobs"), ("get pods log", "get pods/log")],
)
def test_a_step_that_could_not_follow_or_stop_its_job_does_not_start_one(
    denied: str, missing: str
) -> None:
    with pytest.raises(ConfigError, match=f"may not {missing} in namespace team; bind"):
        check_cluster(cluster(denied=(denied,)), "pytorchjob", PLATFORM, "team")


def test_a_quota_that_will_never_do_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"asks for 16 GPUs .* quota gpus .* allows 8"):
        check_cluster(cluster(hard=8), "pytorchjob", PLATFORM, "team")


def test_a_quota_that_others_use_is_a_remark() -> None:
    remarks = check_cluster(cluster(hard=24, used=16), "pytorchjob", PLATFORM, "team")

    assert remarks == ["The quota gpus has 8 of 24 GPUs left: the job of 16 waits for the others."]


def test_a_quota_is_read_as_kubernetes_writes_it() -> None:
    assert check_cluster(cluster(hard="1k", used="12"), "pytorchjob", PLATFORM, "team") == []
    with pytest.raises(ConfigError, match="allows 8000m"):
        check_cluster(cluster(hard="8000m"), "pytorchjob", PLATFORM, "team")


def test_an_admission_refusal_is_reported_before_the_launch() -> None:
    api, job = cluster(), {"metadata": {"name": "rlvr-tiny-train-1"}}
    check_admitted(api, "pytorchjob", job, "team")

    api.refused.append(job)

    with pytest.raises(ConfigError, match="denied request: no digest"):
        check_admitted(api, "pytorchjob", job, "team")


def test_the_platforms_settings_of_a_namespace() -> None:
    path = "/api/v1/namespaces/team/configmaps/rlvr-platform"

    assert read_platform_map(FakeApi({path: {"data": {"platform.yaml": "a: 1"}}}), "team") == "a: 1"
    assert read_platform_map(FakeApi({path: {}}), "team") == ""
    assert read_platform_map(FakeApi({}), "team") == ""
