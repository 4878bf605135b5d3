"""SageMaker's settings: on which machines, with which role, limits and network its jobs run.

They do not change what a run learns, so they are not part of the recipe and its hash. They come
from a file (`--sagemaker FILE`), the form (`job_sagemaker`) and `--sagemaker-set a=b`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from rlvr_components.jobs.job import Step
from rlvr_components.platform.settings import Count, PlatformSection, PositiveInt
from rlvr_components.sagemaker.instance_types import is_accelerated, num_gpus_of
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import explain_faults

MAX_KEEP_ALIVE_S = 21_600
MIN_PENDING_S, MAX_PENDING_S = 1_800, 2_419_200
MAX_PREFERENCES = MAX_GROUPS = 5
MAX_OWN_TAGS = 40
"""SageMaker permits 50 tags; the others are ours."""
MAX_OWN_VARIABLES = 60
"""SageMaker permits 100 variables; the others are ours and the launcher's."""
ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/?[\w+=,.@/-]+")
ECR_IMAGE = re.compile(
    r"\d{12}\.dkr\.ecr(-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/[^\s]+"
)


class InstanceGroup(PlatformSection):
    """A group of equal instances within a job."""

    name: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    """The group's name."""
    instance_type: str
    """Type of its instances, ml.FAMILY.SIZE."""
    instance_count: PositiveInt
    """Number of its instances."""


class SageMaker(PlatformSection):
    """Settings of every SageMaker job. All keys but role_arn, image and the instances are optional.

    Name the instances by one of instance_type, instance_preferences and instance_groups.
    """

    role_arn: str
    """The role of the jobs' containers: it reads and writes the storage and pulls the image."""
    image: str
    """The trainer's image in ECR; by digest (`…@sha256:…`) for repeatable runs."""
    region: str = ""
    """Region of the jobs; empty: that of the environment or the AWS profile."""
    instance_type: str = ""
    """Type of the instances, ml.FAMILY.SIZE."""
    instance_preferences: tuple[str, ...] = ()
    """Types in order of preference, one to five: the job gets the first that has capacity."""
    instance_groups: tuple[InstanceGroup, ...] = ()
    """Groups of instances of different types, whose number of GPUs is the same."""
    instance_count: PositiveInt = 1
    """Number of instances that train together; with instance_groups they tell it."""
    gpus_per_instance: Count | None = None
    """GPUs of an instance; empty: known from its type. 0: train on CPUs."""
    training_plan_arn: str = ""
    """A training plan whose reserved capacity the jobs use."""
    volume_gib: PositiveInt = 100
    """Size of each instance's volume; types with local disks may use those instead."""
    max_runtime_s: PositiveInt = 24 * 3600
    """Time for a job to run, all of its restarts together; then it is stopped and commits."""
    step_limits_s: dict[Step, PositiveInt] = Field(default_factory=dict)
    """Shorter times for the jobs of single steps, as `--max-cost-usd` sets them."""
    max_pending_s: Annotated[int, Field(ge=MIN_PENDING_S, le=MAX_PENDING_S)] | None = None
    """Time for a job to wait for capacity; accelerated types only. Empty: SageMaker's own."""
    spot: bool = False
    """Use spot instances: cheaper, and interrupted when their capacity is needed."""
    max_wait_s: PositiveInt | None = None
    """With spot: time for waiting and running together, at least max_runtime_s."""
    keep_alive_s: Annotated[int, Field(ge=0, le=MAX_KEEP_ALIVE_S)] = 0
    """Time for which instances stay for the run's next job (a warm pool); they cost as running."""
    internal_error_retries: Annotated[int, Field(ge=0, le=30)] = 0
    """Restarts by SageMaker after its own internal errors."""
    health_check: bool = False
    """Check the GPUs and their network before the training starts."""
    max_attempts: PositiveInt = 5
    """Attempts without a new commit before a failure is permanent."""
    subnets: tuple[str, ...] = ()
    """Subnets of a VPC in which the instances run; with an S3 endpoint or a NAT."""
    security_group_ids: tuple[str, ...] = ()
    """Security groups of the instances in the VPC."""
    encrypt_traffic: bool = False
    """Encrypt the traffic between instances; the training gets slower."""
    volume_kms_key: str = ""
    """KMS key of the instances' volumes."""
    output_kms_key: str = ""
    """KMS key of the model that SageMaker uploads."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the jobs, in addition to those of the run."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment of the containers. No credentials: everyone who may describe the job reads it."""

    @field_validator("role_arn")
    @classmethod
    def _role(cls, value: str) -> str:
        if not ROLE.fullmatch(value):
            raise ValueError("is not the ARN of a role; write arn:aws:iam::ACCOUNT:role/NAME")
        return value

    @field_validator("image")
    @classmethod
    def _ecr(cls, value: str) -> str:
        if not ECR_IMAGE.fullmatch(value):
            raise ValueError(
                "is not an image in ECR; push the trainer's image there, and write "
                "ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME@sha256:…"
            )
        return value

    @field_validator("tags")
    @classmethod
    def _few_tags(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > MAX_OWN_TAGS or any(key.startswith(("aws:", "rlvr:")) for key in value):
            raise ValueError(
                f"there are at most {MAX_OWN_TAGS}, and none begins with aws: or rlvr:"
            )
        return value

    @field_validator("env")
    @classmethod
    def _few_variables(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > MAX_OWN_VARIABLES:
            raise ValueError(f"there are at most {MAX_OWN_VARIABLES} variables")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> SageMaker:
        _check_instances(self)
        _check_limits(self)
        if bool(self.subnets) != bool(self.security_group_ids):
            raise ValueError("subnets and security_group_ids: a VPC needs both of them")
        return self

    @property
    def types(self) -> tuple[str, ...]:
        """Return the types that an instance may have."""
        groups = tuple(group.instance_type for group in self.instance_groups)
        return groups or self.instance_preferences or (self.instance_type,)

    @property
    def num_nodes(self) -> int:
        """Return the number of instances that train together."""
        groups = sum(group.instance_count for group in self.instance_groups)
        return groups or self.instance_count

    @property
    def gpus_per_node(self) -> int:
        """Return the GPUs of an instance."""
        if self.gpus_per_instance is not None:
            return self.gpus_per_instance
        return num_gpus_of(self.types[0]) or 0

    @property
    def world_size(self) -> int:
        """Return the number of processes that train: one a GPU, or one an instance without GPUs."""
        return self.num_nodes * max(self.gpus_per_node, 1)

    def runtime_s(self, step: Step) -> int:
        """Return the time for a job of this step to run."""
        return min(self.max_runtime_s, self.step_limits_s.get(step, self.max_runtime_s))

    @property
    def image_region(self) -> str:
        """Return the region of the image's registry."""
        match = ECR_IMAGE.fullmatch(self.image)
        assert match
        return match["region"]


def parse_sagemaker(tree: Mapping[str, Any], *, origin: str) -> SageMaker:
    """Validate SageMaker's settings. Raises ConfigError with one line for each fault."""
    try:
        return SageMaker.model_validate(tree)
    except ValidationError as error:
        faults = explain_faults(error, SageMaker)
        raise ConfigError(f"{origin} holds no valid settings of SageMaker:\n{faults}") from None


def _check_instances(settings: SageMaker) -> None:
    chosen = [
        name
        for name in ("instance_type", "instance_preferences", "instance_groups")
        if getattr(settings, name)
    ]
    if len(chosen) != 1:
        raise ValueError(
            "name the instances by one of instance_type, instance_preferences and instance_groups "
            f"(got {' and '.join(chosen) or 'none of them'})"
        )
    name = chosen[0]
    for limited in ("instance_preferences", "instance_groups"):
        if len(getattr(settings, limited)) > MAX_PREFERENCES:
            raise ValueError(f"{limited}: there are at most {MAX_PREFERENCES}")
    if settings.instance_groups and settings.instance_count != 1:
        raise ValueError("instance_count: instance_groups have their own; leave it out")
    try:
        gpus = {kind: num_gpus_of(kind) for kind in settings.types}
    except ConfigError as error:
        raise ValueError(f"{name}: {error}") from None
    if settings.gpus_per_instance is not None:
        return
    unknown = [kind for kind, count in gpus.items() if count is None]
    if unknown:
        raise ValueError(
            f"gpus_per_instance: the GPUs of {unknown[0]} are not known; correct the type, or set "
            "it"
        )
    if len(set(gpus.values())) > 1:
        counts = ", ".join(f"{kind} {count}" for kind, count in gpus.items())
        raise ValueError(
            f"{name}: the numbers of GPUs differ ({counts}), and with them the batch of the "
            "training; name types with the same number"
        )


def _check_limits(settings: SageMaker) -> None:
    if settings.spot:
        for name in ("instance_preferences", "training_plan_arn", "keep_alive_s"):
            if getattr(settings, name):
                raise ValueError(f"{name}: SageMaker does not permit it with spot; leave one out")
        if settings.max_wait_s is None:
            raise ValueError("max_wait_s: spot needs it; set it to max_runtime_s or more")
        if settings.max_wait_s < settings.max_runtime_s:
            raise ValueError(
                f"max_wait_s: {settings.max_wait_s} s for waiting and running is less than "
                f"max_runtime_s ({settings.max_runtime_s} s); raise it"
            )
    elif settings.max_wait_s is not None:
        raise ValueError("max_wait_s: it is for spot; use max_pending_s for the wait of others")
    if settings.training_plan_arn and settings.keep_alive_s:
        raise ValueError("keep_alive_s: a training plan keeps its own capacity; leave it out")
    if settings.max_pending_s is not None and not all(map(is_accelerated, settings.types)):
        raise ValueError(
            "max_pending_s: SageMaker permits it for accelerated types only; leave it out"
        )
