"""Check what a run on SageMaker needs, before anything is paid for."""

from __future__ import annotations

from typing import Any

from rlvr_components.sagemaker.aws_api import AwsApi
from rlvr_components.sagemaker.run_jobs import ASK_PATIENCE_S
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.storage import S3_SCHEME


def check_sagemaker(settings: SageMaker, storage: str) -> None:
    """Check the instance types, the credentials, and the regions of image and bucket.

    The role, its rights and the quota are checked by SageMaker when a job is created, before
    anything is billed. Raises ConfigError, PlatformError.
    """
    check_types(settings)
    api = AwsApi(settings.region, patience_s=ASK_PATIENCE_S)
    if settings.image_region != api.region:
        raise ConfigError(
            f"image {settings.image} is in {settings.image_region}, and the jobs run in "
            f"{api.region}; push it to the ECR of that region"
        )
    account = str(api.call("sts", "GetCallerIdentity", "AWS credentials")["Account"])
    if f":{account}:" not in settings.role_arn:
        raise ConfigError(
            f"role_arn {settings.role_arn} is of another account than the credentials "
            f"({account}), and SageMaker takes roles of its own account only; name one of it"
        )
    _check_bucket(api, storage)


def check_types(settings: SageMaker) -> None:
    """Raise ConfigError for an instance type that boto3's model of SageMaker does not have."""
    import botocore.session

    session: Any = botocore.session.Session()
    model = session.get_service_model("sagemaker")
    known = model.shape_for("TrainingInstanceType").enum
    for name in settings.types:
        if name not in known:
            raise ConfigError(
                f"SageMaker has no instance type {name!r}{did_you_mean(name, known)}; correct it, "
                "or update boto3 if it is a new one"
            )


def _check_bucket(api: AwsApi, storage: str) -> None:
    bucket, _, prefix = storage.removeprefix(S3_SCHEME).partition("/")
    answer = api.call(
        "s3", "ListObjectsV2", f"bucket {bucket}", Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1
    )
    # boto3 itself follows a redirection to another region
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = str(headers.get("x-amz-bucket-region") or api.region)
    if region != api.region:
        raise ConfigError(
            f"bucket {bucket} is in {region}, and the jobs run in {api.region}; use a bucket of "
            "their region"
        )
