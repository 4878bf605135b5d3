from typing import Any

import pytest
from kfp.dsl import TaskConfig

from rlvr_components.platform.settings import Platform, Volume
from rlvr_components.steps.task_config import merge_task_config
from rlvr_trainer.errors import ConfigError

PLATFORM = Platform(
    image="r.example/t@sha256:0",
    gpus_per_node=1,
    node_selector={"zone": "a"},
    tolerations=({"key": "gpu", "operator": "Exists"},),
    env={"A": "1", "B": "1"},
    secrets=("keys",),
)


def merged(**config: Any) -> Platform:
    return merge_task_config(PLATFORM, TaskConfig(**config))


def test_a_task_without_settings_leaves_the_platform_unchanged() -> None:
    assert merge_task_config(PLATFORM, None) == PLATFORM
    assert merged() == PLATFORM


def test_the_tasks_resources_are_the_jobs() -> None:
    platform = merged(
        resources={
            "limits": {"nvidia.com/gpu": "8", "memory": "64Gi"},
            "requests": {"cpu": "1500m", "memory": "32G"},
        }
    )

    assert (platform.gpus_per_node, platform.cpu_per_node) == (8, 1.5)
    assert platform.memory_gib_per_node == 64
    requested = merged(resources={"requests": {"memory": "32G"}})
    assert requested.memory_gib_per_node == pytest.approx(29.8, abs=0.1)


def test_placement_adds_to_the_platforms() -> None:
    other = {"key": "spot", "operator": "Exists"}

    platform = merged(
        node_selector={"gpu": "h200"}, tolerations=[dict(PLATFORM.tolerations[0]), other]
    )

    assert platform.node_selector == {"zone": "a", "gpu": "h200"}
    assert platform.tolerations == (*PLATFORM.tolerations, other)


def test_secrets_go_by_name_and_fields_of_the_pod_stay_there() -> None:
    platform = merged(
        env=[
            {"name": "B", "value": "2"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "KEY"}}},
            {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "OTHER"}}},
            {"name": "RLVR_RUN_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]
    )

    assert platform.env == {"A": "1", "B": "2"}
    assert platform.secrets == ("keys", "s3")


def test_claims_are_mounted_where_the_task_mounts_them() -> None:
    platform = merged(
        volumes=[
            {"name": "v", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "launcher", "emptyDir": {}},
        ],
        volume_mounts=[
            {"name": "v", "mountPath": "/models", "readOnly": True},
            {"name": "launcher", "mountPath": "/kfp"},
        ],
    )

    assert platform.volumes == (Volume(claim="models", path="/models", read_only=True),)


def test_settings_that_a_job_cannot_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="affinity"):
        merged(affinity={"nodeAffinity": {}})
    with pytest.raises(ConfigError, match="'much' is not a quantity"):
        merged(resources={"limits": {"memory": "much"}})
    renamed = {"secretKeyRef": {"name": "hub", "key": "token"}}
    with pytest.raises(
        ConfigError, match="job takes keys by their own names; name the key HF_TOKEN"
    ):
        merged(env=[{"name": "HF_TOKEN", "valueFrom": renamed}])
    with pytest.raises(ConfigError, match="REGION from configMapKeyRef"):
        merged(env=[{"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "a"}}}])
    with pytest.raises(ConfigError, match="mounts certificates, and jobs support whole claims"):
        merged(volumes=[{"name": "certificates", "configMap": {"name": "ca"}}])
    with pytest.raises(ConfigError, match="mounts v, and jobs support whole claims"):
        merged(volume_mounts=[{"name": "v", "mountPath": "/a", "subPath": "part"}])
