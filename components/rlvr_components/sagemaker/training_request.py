"""Render a job as a request to CreateTrainingJob. Pure.

The container is the trainer's own image, started with our command: no `train` program and no
toolkit. It reads and writes the run directory in S3 itself, so network isolation, under which a
container reaches nothing, S3 included, is off; where the model is not on a hub, the hub is not
asked (HF_HUB_OFFLINE), and a VPC's subnets can do without a way to the internet.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from rlvr_components.jobs.job import JobSpec, Resources, Step, allowed_environment
from rlvr_components.jobs.pods import CREDENTIAL, NOT_A_CREDENTIAL
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import training_hash
from rlvr_trainer.storage import S3_SCHEME
from rlvr_trainer.variables import MAX_RUNTIME_VARIABLE

ENTRYPOINT = ("python", "-m", "rlvr_trainer", "launch")
MASTER_TIMEOUT_S = 600
"""Time for the first host's name to resolve: SageMaker starts all hosts together."""
MAX_ARGUMENT, MAX_ARGUMENTS = 256, 100
MAX_VARIABLE, MAX_VARIABLES = 512, 100
OUTPUT = "sagemaker"
"""Folder of the run directory to which SageMaker uploads what a job leaves in /opt/ml/model."""
MODEL_CHANNEL = "model"

RUN_TAG, RUN_ID_TAG, STEP_TAG, RECIPE_TAG = "rlvr:run", "rlvr:run-id", "rlvr:step", "rlvr:recipe"
RUN, RUN_ID, RUN_DIR, STEP = "run", "run_id", "run_dir", "step"
ATTEMPT, RECIPE, SPEC_HASH = "attempt", "recipe_hash", "spec_hash"
"""Hyperparameters, which only identify the job: DescribeTrainingJob returns them unchanged."""

_NUMBER = r"(-?[0-9.]+(?:e-?[0-9]+)?)"
_TRAINED, _EVALUATED = r"step [0-9]+/[0-9]+ .*", "evaluation [a-z-]+ .*"
METRICS = {
    "reward": rf"{_TRAINED} reward {_NUMBER}",
    "completion_length": rf"{_TRAINED} length {_NUMBER}",
    "loss": rf"{_TRAINED} loss {_NUMBER}",
    "tokens_per_second": rf"{_TRAINED} {_NUMBER} tokens/s",
    "accuracy": rf"{_EVALUATED} accuracy {_NUMBER}",
    "format": rf"{_EVALUATED} format {_NUMBER}",
}
"""Name → regular expression of a log line: SageMaker draws its first group in the console."""
FREE_OF_HASH = ("Tags", "HyperParameters")
TAG_VALUE = re.compile(r"[^\w.:/=+@ -]")

Request = Mapping[str, Any]


def sagemaker_job(
    recipe: Recipe,
    settings: SageMaker,
    environment: Mapping[str, str],
    *,
    run_name: str,
    run_dir: str,
    run_id: str,
    step: Step = "train",
    command: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    is_automatic: bool = False,
) -> JobSpec:
    """Return the job of a step on SageMaker, launched from `environment`.

    It runs `command`, or trains without one. Raises ConfigError for a run directory that is not in
    S3.
    """
    if not run_dir.startswith(S3_SCHEME):
        raise ConfigError(
            f"storage {run_dir!r} is not in S3, and SageMaker's containers share no other disk; "
            "give --storage s3://bucket/prefix"
        )
    offline = {} if recipe.model.is_hub_id else {"HF_HUB_OFFLINE": "1"}
    return JobSpec(
        run_name=run_name,
        recipe_hash=training_hash(recipe) if step == "train" else recipe.hash,
        command=launch_command(run_dir, settings, command),
        run_dir=run_dir,
        step=step,
        run_id=run_id,
        is_automatic=is_automatic,
        env={**allowed_environment(environment), **offline, **(env or {})},
        resources=Resources(settings.num_nodes, settings.gpus_per_node),
        model_uri=recipe.model.name if recipe.model.name.startswith(S3_SCHEME) else "",
    )


def launch_command(
    run_dir: str, settings: SageMaker, command: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the command of a container for `run_dir`: `command`, or the training without one."""
    return (
        *ENTRYPOINT,
        *("--run", run_dir),
        *("--max-attempts", str(settings.max_attempts)),
        *("--master-timeout-s", str(MASTER_TIMEOUT_S)),
        *(("--", *command) if command else ()),
    )


def render_request(spec: JobSpec, settings: SageMaker) -> dict[str, Any]:
    """Render the request. Pure. Raises ConfigError for what SageMaker would refuse."""
    request: dict[str, Any] = {
        "TrainingJobName": spec.name,
        "RoleArn": settings.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": settings.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": list(spec.command[: len(ENTRYPOINT)]),
            "ContainerArguments": _arguments(spec.command[len(ENTRYPOINT) :]),
            "MetricDefinitions": [
                {"Name": name, "Regex": regex} for name, regex in METRICS.items()
            ],
        },
        **_present("InputDataConfig", _channels(spec)),
        "OutputDataConfig": {
            "S3OutputPath": f"{spec.run_dir}/{OUTPUT}",
            **_present("KmsKeyId", settings.output_kms_key),
            "CompressionType": "NONE",
        },
        "ResourceConfig": _resources(settings),
        **_present("VpcConfig", _vpc(settings)),
        "StoppingCondition": {
            "MaxRuntimeInSeconds": settings.runtime_s(spec.step),
            **_present("MaxWaitTimeInSeconds", settings.max_wait_s),
            **_present("MaxPendingTimeInSeconds", settings.max_pending_s),
        },
        "Environment": _environment(spec, settings),
        "EnableNetworkIsolation": False,
        "EnableInterContainerTrafficEncryption": settings.encrypt_traffic,
        "EnableManagedSpotTraining": settings.spot,
        **_present("RetryStrategy", _retries(settings)),
        **_present("InfraCheckConfig", {"EnableInfraCheck": True} if settings.health_check else {}),
    }
    facts = {
        RUN: spec.run_name,
        RUN_ID: spec.run_id,
        RUN_DIR: spec.run_dir,
        STEP: spec.step,
        ATTEMPT: str(spec.attempt),
        RECIPE: spec.recipe_hash,
        SPEC_HASH: spec_hash(request),
    }
    return {**request, "HyperParameters": facts, "Tags": _tags(spec, settings)}


def spec_hash(request: Request) -> str:
    """Return twelve hex digits of what the request asks for, apart from what identifies it."""
    content = {key: value for key, value in request.items() if key not in FREE_OF_HASH}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _arguments(arguments: tuple[str, ...]) -> list[str]:
    long = [argument for argument in arguments if len(argument) > MAX_ARGUMENT]
    if long or len(arguments) > MAX_ARGUMENTS:
        raise ConfigError(
            f"SageMaker permits {MAX_ARGUMENTS} arguments of {MAX_ARGUMENT} characters, and the "
            f"job has {len(arguments)}{f', one of them {long[0]!r}' if long else ''}; shorten "
            "--storage"
        )
    return list(arguments)


def _channels(spec: JobSpec) -> list[dict[str, Any]]:
    if not spec.model_uri:
        return []
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": f"{spec.model_uri.rstrip('/')}/",
        "S3DataDistributionType": "FullyReplicated",
    }
    return [{"ChannelName": MODEL_CHANNEL, "DataSource": {"S3DataSource": source}}]


def _resources(settings: SageMaker) -> dict[str, Any]:
    common = {
        "VolumeSizeInGB": settings.volume_gib,
        **_present("VolumeKmsKeyId", settings.volume_kms_key),
        **_present("KeepAlivePeriodInSeconds", settings.keep_alive_s),
        **_present("TrainingPlanArn", settings.training_plan_arn),
    }
    if settings.instance_groups:
        groups = [
            {
                "InstanceGroupName": group.name,
                "InstanceType": group.instance_type,
                "InstanceCount": group.instance_count,
            }
            for group in settings.instance_groups
        ]
        return {"InstanceGroups": groups, **common}
    if settings.instance_preferences:
        preferences = [
            {"InstanceType": name, "InstanceCount": settings.instance_count}
            for name in settings.instance_preferences
        ]
        return {"InstancePreferences": preferences, **common}
    return {
        "InstanceType": settings.instance_type,
        "InstanceCount": settings.instance_count,
        **common,
    }


def _vpc(settings: SageMaker) -> dict[str, Any]:
    if not settings.subnets:
        return {}
    return {
        "SecurityGroupIds": list(settings.security_group_ids),
        "Subnets": list(settings.subnets),
    }


def _retries(settings: SageMaker) -> dict[str, int]:
    retries = settings.internal_error_retries
    return {"MaximumRetryAttempts": retries} if retries else {}


def _environment(spec: JobSpec, settings: SageMaker) -> dict[str, str]:
    merged = {**spec.env, **settings.env, MAX_RUNTIME_VARIABLE: str(settings.runtime_s(spec.step))}
    for name, value in merged.items():
        if CREDENTIAL.search(name) and not NOT_A_CREDENTIAL.search(name):
            raise ConfigError(
                f"env.{name} looks like a credential, and everyone who may describe the job could "
                "read it; give role_arn the right, and copy a gated model to S3 (model.name=s3://…)"
            )
        if len(value) > MAX_VARIABLE:
            raise ConfigError(
                f"env.{name} has {len(value)} characters, and SageMaker permits {MAX_VARIABLE}; "
                "shorten it"
            )
    if len(merged) > MAX_VARIABLES:
        raise ConfigError(
            f"the job has {len(merged)} environment variables, and SageMaker permits "
            f"{MAX_VARIABLES}; unset some of NCCL_*, FI_*, CUDA_*, PYTORCH_* and TORCH_* here"
        )
    return {name: merged[name] for name in sorted(merged)}


def _tags(spec: JobSpec, settings: SageMaker) -> list[dict[str, str]]:
    tags = {
        **settings.tags,
        RUN_TAG: spec.run_name,
        STEP_TAG: spec.step,
        RECIPE_TAG: spec.recipe_hash,
        **_present(RUN_ID_TAG, spec.run_id),
    }
    return [{"Key": key, "Value": TAG_VALUE.sub("-", tags[key])[:256]} for key in sorted(tags)]


def _present(name: str, value: Any) -> dict[str, Any]:
    """Return the field unless it is empty: for SageMaker, absent and empty differ."""
    return {name: value} if value else {}
