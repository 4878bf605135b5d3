"""The roles of `manifests/sagemaker`; nothing here asks AWS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import MANIFESTS

SAGEMAKER = MANIFESTS / "sagemaker"
ON_ANY_RESOURCE = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}
"""Actions that AWS does not limit to a resource."""


def statements(path: str) -> dict[str, dict[str, Any]]:
    document = json.loads((SAGEMAKER / path).read_text())
    return {statement["Sid"]: statement for statement in document["Statement"]}


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_a_job_has_named_actions_on_what_is_ours() -> None:
    for statement in statements("iam/container.json").values():
        actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in actions)
        if "*" in resources:
            assert set(actions) <= ON_ANY_RESOURCE
        else:
            assert all("MY_BUCKET" in name or "MY_ACCOUNT_ID" in name for name in resources)


def test_a_job_does_with_the_bucket_what_a_pod_of_a_trainer_does() -> None:
    trainer = json.loads((MANIFESTS / "eks" / "iam" / "trainer.json").read_text())["Statement"]
    ours = statements("iam/container.json")
    assert [ours[statement["Sid"]] for statement in trainer] == trainer


def test_only_jobs_of_the_account_take_the_role() -> None:
    (statement,) = statements("iam/trust.json").values()
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "MY_ACCOUNT_ID"}


def test_every_action_exists() -> None:
    querying = pytest.importorskip("policy_sentry.querying.actions")
    for statement in statements("iam/container.json").values():
        for action in as_list(statement["Action"]):
            assert querying.get_action_data(*action.split(":")), action
