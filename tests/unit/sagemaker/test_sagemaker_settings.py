from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr_components.sagemaker.sagemaker_settings import parse_sagemaker
from rlvr_trainer.errors import ConfigError

from .launches import SETTINGS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role_arn": "rlvr-trainer"}, "role_arn: is not the ARN of a role; write arn:aws:iam::"),
        ({"image": "rlvr-trainer:1"}, "image: is not an image in ECR"),
        ({"instance_type": "g5.xlarge"}, "instance_type: 'g5.xlarge' is not an instance type"),
        ({"instance_type": ""}, "name the instances by one of .*got none of them"),
        (
            {"instance_preferences": ["ml.p5.48xlarge"]},
            "got instance_type and instance_preferences",
        ),
        (
            {"instance_type": "", "instance_preferences": ["ml.p5.48xlarge", "ml.g5.xlarge"]},
            r"instance_preferences: the numbers of GPUs differ \(ml.p5.48xlarge 8, ml.g5.xlarge 1",
        ),
        (
            {"instance_type": "", "instance_preferences": ["ml.p5.48xlarge"] * 6},
            "instance_preferences: there are at most 5",
        ),
        (
            {
                "instance_type": "",
                "instance_preferences": ["ml.p5.48xlarge"],
                "spot": True,
                "max_wait_s": 90_000,
            },
            "instance_preferences: SageMaker does not permit it with spot",
        ),
        (
            {"spot": True, "max_wait_s": 90_000, "keep_alive_s": 60},
            "keep_alive_s: SageMaker does not permit it with spot",
        ),
        ({"spot": True}, "max_wait_s: spot needs it"),
        ({"spot": True, "max_wait_s": 3600}, "max_wait_s: 3600 s .* less than max_runtime_s"),
        ({"max_wait_s": 90_000}, "max_wait_s: it is for spot"),
        ({"keep_alive_s": 21_601}, "keep_alive_s: got 21601"),
        ({"max_pending_s": 60}, "max_pending_s: got 60"),
        (
            {"instance_type": "ml.m5.large", "max_pending_s": 7200},
            "max_pending_s: SageMaker permits it for accelerated types only",
        ),
        ({"subnets": ["subnet-1"]}, "subnets and security_group_ids: a VPC needs both"),
        ({"instance_type": "ml.g7.2xlarge"}, "gpus_per_instance: the GPUs of ml.g7.2xlarge"),
        ({"tags": {"rlvr:run": "mine"}}, "tags: there are at most 40, and none begins with"),
        ({"instance_counts": 2}, r"instance_counts: unknown field.*instance_count"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_sagemaker({**SETTINGS, **changes}, origin="settings.yaml")


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_sagemaker({"instance_type": "ml.g5.xlarge"}, origin="settings.yaml")
    assert "settings.yaml holds no valid settings of SageMaker" in str(caught.value)
    assert "role_arn: missing; set it" in str(caught.value)
    assert "image: missing; set it" in str(caught.value)


def test_the_processes_are_counted_from_the_type() -> None:
    def world_size(**changes: Any) -> int:
        return parse_sagemaker({**SETTINGS, **changes}, origin="here").world_size

    assert world_size(instance_count=2) == 16
    assert world_size(instance_type="ml.m5.large") == 1
    assert world_size(instance_type="ml.g7.2xlarge", gpus_per_instance=1, instance_count=3) == 3


def test_the_readmes_settings_are_valid() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    (block,) = [
        text for text in re.findall(r"```yaml\n(.*?)```", readme, re.S) if "role_arn" in text
    ]
    filled = block.replace("ACCOUNT", "123456789012").replace("REGION", "us-west-2")
    settings = parse_sagemaker(yaml.safe_load(filled.replace("…", "0" * 64)), origin="README.md")
    assert settings.world_size == 16
