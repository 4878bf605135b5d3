from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.service_model import enumeration, faults

from rlvr_components.sagemaker.instance_types import num_gpus_of
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_components.sagemaker.training_request import (
    METRICS,
    OUTPUT,
    render_request,
    sagemaker_job,
)
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.grpo.callbacks import step_line
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import evaluation_line

from .launches import IMAGE, ROLE, SETTINGS

RUN_DIR = "s3://bucket/runs/gsm8k-0123456789ab"
EVERYTHING: dict[str, Any] = {
    **SETTINGS,
    "region": "us-west-2",
    "instance_count": 2,
    "max_pending_s": 7200,
    "keep_alive_s": 3600,
    "internal_error_retries": 3,
    "health_check": True,
    "subnets": ("subnet-0123456789abcdef0",),
    "security_group_ids": ("sg-0123456789abcdef0",),
    "encrypt_traffic": True,
    "volume_kms_key": "arn:aws:kms:us-west-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "output_kms_key": "alias/rlvr",
    "tags": {"team": "reasoning"},
    "env": {"NCCL_DEBUG": "INFO"},
}
SPOT = {**SETTINGS, "spot": True, "max_wait_s": 200_000}
PREFERENCES = {
    **SETTINGS,
    "instance_type": "",
    "instance_preferences": ("ml.p5.48xlarge", "ml.p4de.24xlarge", "ml.g6e.48xlarge"),
    "max_pending_s": 7200,
}
GROUPS = {
    **SETTINGS,
    "instance_type": "",
    "instance_groups": (
        {"name": "first", "instance_type": "ml.p5.48xlarge", "instance_count": 1},
        {"name": "others", "instance_type": "ml.g6e.48xlarge", "instance_count": 2},
    ),
}


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("gsm8k")


def job(recipe: Recipe, settings: SageMaker, **changes: Any) -> Any:
    environment = changes.pop("environment", {})
    chosen = {"run_name": "gsm8k", "run_dir": RUN_DIR, "run_id": "gsm8k-0123456789ab", **changes}
    return sagemaker_job(recipe, settings, environment, **chosen)


@pytest.mark.parametrize(
    "tree", [SETTINGS, EVERYTHING, SPOT, PREFERENCES, GROUPS], ids=lambda tree: str(len(tree))
)
@pytest.mark.parametrize("model", ["HuggingFaceTB/SmolLM2-135M", "s3://bucket/models/qwen"])
def test_a_request_is_valid_by_the_services_model(tree: dict[str, Any], model: str) -> None:
    settings = SageMaker.model_validate(tree)
    recipe = load_recipe("gsm8k", [f"model.name={model}", "model.revision=main"])
    for step, command in (
        ("train", ()),
        ("evaluate-base", ("python", "-m", "rlvr_trainer", "evaluate", "--label", "before")),
    ):
        spec = job(recipe, settings, step=step, command=command)
        assert faults("sagemaker", "CreateTrainingJob", render_request(spec, settings)) == []


def test_the_checker_finds_what_botocores_validator_leaves_out(recipe: Recipe) -> None:
    settings = SageMaker.model_validate(SETTINGS)
    request = render_request(job(recipe, settings), settings)
    request["ResourceConfig"]["InstanceType"] = "ml.g99.large"
    request["ResourceConfig"]["KeepAlivePeriodInSeconds"] = 21601
    request["TrainingJobName"] = "rlvr_gsm8k"
    report = "\n".join(faults("sagemaker", "CreateTrainingJob", request))
    assert "'ml.g99.large' is not one of" in report
    assert "21601 is over the maximum 21600" in report
    assert "'rlvr_gsm8k' does not match" in report


def test_the_image_is_started_with_our_command_and_nothing_else(recipe: Recipe) -> None:
    settings = SageMaker.model_validate(SETTINGS)
    algorithm = render_request(job(recipe, settings), settings)["AlgorithmSpecification"]
    assert algorithm["TrainingImage"] == IMAGE
    assert algorithm["ContainerEntrypoint"] == ["python", "-m", "rlvr_trainer", "launch"]
    assert algorithm["ContainerArguments"][:2] == ["--run", RUN_DIR]


def test_every_setting_reaches_the_request(recipe: Recipe) -> None:
    settings = SageMaker.model_validate(EVERYTHING)
    request = render_request(job(recipe, settings), settings)
    assert request["RoleArn"] == ROLE
    assert request["ResourceConfig"] == {
        "InstanceType": "ml.g6e.48xlarge",
        "InstanceCount": 2,
        "VolumeSizeInGB": 100,
        "VolumeKmsKeyId": EVERYTHING["volume_kms_key"],
        "KeepAlivePeriodInSeconds": 3600,
    }
    assert request["StoppingCondition"] == {
        "MaxRuntimeInSeconds": 86400,
        "MaxPendingTimeInSeconds": 7200,
    }
    assert request["VpcConfig"] == {
        "SecurityGroupIds": ["sg-0123456789abcdef0"],
        "Subnets": ["subnet-0123456789abcdef0"],
    }
    assert request["RetryStrategy"] == {"MaximumRetryAttempts": 3}
    assert request["InfraCheckConfig"] == {"EnableInfraCheck": True}
    assert request["EnableInterContainerTrafficEncryption"] is True
    assert request["OutputDataConfig"] == {
        "S3OutputPath": f"{RUN_DIR}/{OUTPUT}",
        "KmsKeyId": "alias/rlvr",
        "CompressionType": "NONE",
    }
    assert request["Environment"]["NCCL_DEBUG"] == "INFO"
    assert request["Environment"]["RLVR_MAX_RUNTIME_S"] == "86400"
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert tags["team"] == "reasoning"
    assert tags["rlvr:run-id"] == "gsm8k-0123456789ab"


def test_a_step_may_have_a_shorter_time(recipe: Recipe) -> None:
    settings = SageMaker(**SETTINGS, max_runtime_s=3600, step_limits_s={"train": 1800})
    for step, seconds in (("train", 1800), ("evaluate-base", 3600)):
        request = render_request(job(recipe, settings, step=step), settings)
        assert request["StoppingCondition"]["MaxRuntimeInSeconds"] == seconds
        assert request["Environment"]["RLVR_MAX_RUNTIME_S"] == str(seconds)


def test_spot_preferences_and_groups_are_rendered(recipe: Recipe) -> None:
    spot, preferences, groups = map(SageMaker.model_validate, (SPOT, PREFERENCES, GROUPS))
    request = render_request(job(recipe, spot), spot)
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"]["MaxWaitTimeInSeconds"] == 200_000
    chosen = render_request(job(recipe, preferences), preferences)["ResourceConfig"]
    assert [p["InstanceType"] for p in chosen["InstancePreferences"]] == list(
        PREFERENCES["instance_preferences"]
    )
    assert "InstanceType" not in chosen
    assert groups.num_nodes == 3
    assert groups.world_size == 24
    chosen = render_request(job(recipe, groups), groups)["ResourceConfig"]
    assert [group["InstanceCount"] for group in chosen["InstanceGroups"]] == [1, 2]


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"])
def test_a_credential_is_refused_and_never_in_the_request(recipe: Recipe, name: str) -> None:
    settings = SageMaker.model_validate({**SETTINGS, "env": {name: "hunter2"}})
    with pytest.raises(ConfigError, match=f"env.{name} looks like a credential"):
        render_request(job(recipe, settings), settings)
    plain = SageMaker.model_validate(SETTINGS)
    request = render_request(job(recipe, plain, environment={name: "hunter2"}), plain)
    assert "hunter2" not in str(request)


def test_only_a_model_of_the_hub_is_asked_for_there() -> None:
    settings = SageMaker.model_validate(SETTINGS)
    hub = load_recipe("gsm8k", ["model.name=org/model"])
    stored = load_recipe("gsm8k", ["model.name=s3://bucket/models/qwen"])
    offline = render_request(job(stored, settings), settings)
    assert "HF_HUB_OFFLINE" not in render_request(job(hub, settings), settings)["Environment"]
    assert offline["Environment"]["HF_HUB_OFFLINE"] == "1"
    (channel,) = offline["InputDataConfig"]
    assert channel["ChannelName"] == "model"
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/models/qwen/"


def test_the_name_depends_on_run_step_recipe_and_attempt(recipe: Recipe) -> None:
    settings = SageMaker.model_validate(SETTINGS)
    spec = job(recipe, settings)
    other = load_recipe("gsm8k", ["seed=7"])
    names = {
        spec.name,
        spec.with_attempt(2).name,
        job(recipe, settings, step="evaluate-base").name,
        job(recipe, settings, run_id="another").name,
        job(other, settings).name,
    }
    assert len(names) == 5
    assert spec.name == job(recipe, settings).name
    longest = job(recipe, settings, run_name="a" * 24, step="evaluate-trained").with_attempt(99)
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", longest.name)


def test_the_spec_hash_changes_with_what_runs_and_not_with_tags(recipe: Recipe) -> None:
    def hash_of(**changes: Any) -> str:
        settings = SageMaker.model_validate({**SETTINGS, **changes})
        facts = render_request(job(recipe, settings), settings)["HyperParameters"]
        return str(facts["spec_hash"])

    assert hash_of() == hash_of(tags={"team": "a"})
    assert hash_of() != hash_of(instance_count=2)


def test_the_consoles_charts_read_our_log_lines() -> None:
    numbers = {
        "reward": -0.25,
        "rewards/format/mean": 0.5,
        "rewards/correctness/mean": 0.75,
        "completions/mean_length": 87.0,
        "loss": 0.0123,
        "tokens_per_second": 1234.0,
        "step_time": 3.5,
    }
    log = f"[rank 0] {step_line(3, 10, numbers)}\n{evaluation_line('evaluate-base', 0.61, 0.93)}\n"
    read = {name: re.search(regex, log)[1] for name, regex in METRICS.items()}  # type: ignore[index]
    assert read == {
        "reward": "-0.250",
        "completion_length": "87",
        "loss": "0.0123",
        "tokens_per_second": "1234",
        "accuracy": "0.6100",
        "format": "0.9300",
    }


def test_what_sagemaker_would_refuse_is_refused_here(recipe: Recipe) -> None:
    settings = SageMaker.model_validate(SETTINGS)
    with pytest.raises(ConfigError, match=r"'/mnt/runs' is not in S3"):
        job(recipe, settings, run_dir="/mnt/runs")
    spec = job(recipe, settings, run_dir="s3://bucket/" + "x" * 300)
    with pytest.raises(ConfigError, match="256 characters"):
        render_request(spec, settings)
    many = replace(job(recipe, settings), env={f"NCCL_{i}": "1" for i in range(100)})
    with pytest.raises(ConfigError, match="101 environment variables"):
        render_request(many, settings)
    long = SageMaker.model_validate({**SETTINGS, "env": {"NCCL_X": "y" * 513}})
    with pytest.raises(ConfigError, match="NCCL_X has 513 characters"):
        render_request(job(recipe, long), long)


def test_the_gpus_of_every_accelerated_type_but_the_newest_are_known() -> None:
    types = enumeration("sagemaker", "TrainingInstanceType")
    unknown = {kind.split(".")[1] for kind in types if num_gpus_of(kind) is None}
    assert unknown == {"g7", "p2", "p6e-gb200", "trn1", "trn1n", "trn2"}
    assert num_gpus_of("ml.m5.large") == 0
