from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.fake_sagemaker import FakeSageMaker
from tests.unit.sagemaker.launches import SETTINGS

from rlvr_components.preflight.form import Form, resolve_sagemaker
from rlvr_components.preflight.sagemaker_checks import check_sagemaker
from rlvr_components.sagemaker.aws_api import AwsApi
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_trainer.errors import ConfigError

HERE = {
    **SETTINGS,
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/rlvr/rlvr-trainer:1",
}


def check(storage: str, **changes: Any) -> None:
    check_sagemaker(SageMaker.model_validate({**HERE, **changes}), storage)


def test_what_fits_passes(sagemaker: FakeSageMaker, s3: str) -> None:
    check(f"{s3}/run-1")
    assert sagemaker.calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region": "us-west-2"}, "is in us-east-1, and the jobs run in us-west-2; push it"),
        (
            {"instance_type": "ml.g6e.49xlarge", "gpus_per_instance": 8},
            "no instance type 'ml.g6e.49xlarge' .did you mean 'ml.g6e.4",
        ),
        (
            {"role_arn": "arn:aws:iam::999999999999:role/rlvr"},
            r"of another account than the credentials \(123456789012\)",
        ),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_paid_for(
    sagemaker: FakeSageMaker, s3: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(f"{s3}/run-1", **changes)


def test_a_missing_bucket_is_reported(sagemaker: FakeSageMaker, s3: str) -> None:
    with pytest.raises(ConfigError, match="bucket no-such-bucket does not exist; create it"):
        check("s3://no-such-bucket/runs")


def test_a_bucket_of_another_region_is_refused(
    sagemaker: FakeSageMaker, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto names no region of a bucket, so the answer of S3 is played here."""
    send = AwsApi._send

    def answer(api: AwsApi, service: str, operation: str, request: dict[str, Any]) -> Any:
        if service == "s3":
            return {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": "eu-west-1"}}}
        return send(api, service, operation, request)

    monkeypatch.setattr(AwsApi, "_send", answer)
    with pytest.raises(ConfigError, match="is in eu-west-1, and the jobs run in us-east-1"):
        check(f"{s3}/run-1")


def test_the_form_needs_settings_and_its_own_fields_override_them() -> None:
    with pytest.raises(ConfigError, match="needs role_arn, image and instance_type"):
        resolve_sagemaker(Form(recipe="gsm8k", job_place="sagemaker"))
    text = f"role_arn: {HERE['role_arn']}\nimage: {HERE['image']}\ninstance_type: ml.g5.xlarge"
    form = Form(recipe="gsm8k", job_sagemaker=text, job_num_nodes=3)
    assert resolve_sagemaker(form).num_nodes == 3
    with pytest.raises(ConfigError, match="job_sagemaker holds no valid settings"):
        resolve_sagemaker(Form(recipe="gsm8k", job_sagemaker="{image: x}"))
