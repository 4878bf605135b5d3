"""Compare SageMaker's policies with the requests that our code makes."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlvr_components

from .conftest import MANIFESTS

POLICIES = MANIFESTS / "eks" / "iam" / "sagemaker"
SOURCES = Path(rlvr_components.__file__).parent
WITHOUT_A_RIGHT = {"sts:GetCallerIdentity"}
"""Requests that AWS permits every identity."""
OF_OTHER_REQUESTS = {"iam:PassRole", "sagemaker:AddTags"}
"""Rights that CreateTrainingJob needs for role_arn and tags."""
BY_THE_STORAGE = {"s3:ListObjectsV2"}
"""Requests that the launcher's policy of the bucket permits (s3:ListBucket)."""


def statements(name: str) -> list[dict[str, Any]]:
    policy = json.loads((POLICIES / f"{name}.json").read_text())
    assert policy["Version"] == "2012-10-17"
    return list(policy["Statement"])


def actions(name: str) -> set[str]:
    listed = [statement["Action"] for statement in statements(name)]
    return {a for some in listed for a in ([some] if isinstance(some, str) else some)}


def requests_of(path: Path) -> Iterator[str]:
    """Yield `service:Operation` of each call of AwsApi in a module."""
    tree = ast.parse(path.read_text())
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_call and node.func.attr in ("call", "pages") and len(node.args) >= 3:
            service, operation = node.args[:2]
            name = constants[service.id] if isinstance(service, ast.Name) else service.value
            if isinstance(operation, ast.Constant):
                yield f"{name}:{operation.value}"


def test_the_launcher_and_clean_may_do_what_the_code_does_and_nothing_else() -> None:
    modules = [
        path
        for path in (*SOURCES.glob("sagemaker/*.py"), *SOURCES.glob("preflight/sagemaker*.py"))
        if path.name != "aws_api.py"
    ]
    requests = {request for path in modules for request in requests_of(path)}
    assert "sagemaker:CreateTrainingJob" in requests
    needed = requests - WITHOUT_A_RIGHT - BY_THE_STORAGE
    storage = {"s3:DeleteObject"}  # of a run directory, by clean
    assert actions("launcher") | actions("clean") == needed | OF_OTHER_REQUESTS | storage
    assert not actions("launcher") & actions("clean")


@pytest.mark.parametrize("name", ["launcher", "clean", "role", "trust"])
def test_a_policy_is_as_narrow_as_its_actions_permit(name: str) -> None:
    assert not [action for action in actions(name) if "*" in action]
    everywhere = {
        action
        for statement in statements(name)
        if statement.get("Resource") == "*"
        for action in [statement["Action"]]
    }
    # these have no resources of their own
    assert everywhere <= {
        "sagemaker:ListTrainingJobs",
        "ecr:GetAuthorizationToken",
        "cloudwatch:PutMetricData",
    }


def test_only_sagemaker_is_passed_the_role() -> None:
    (passing,) = [s for s in statements("launcher") if s["Action"] == "iam:PassRole"]
    assert passing["Condition"] == {
        "StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}
    }
    (trust,) = statements("trust")
    assert trust["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert "aws:SourceAccount" in trust["Condition"]["StringEquals"]


@pytest.mark.parametrize("name", ["launcher", "clean", "role"])
def test_every_action_exists(name: str) -> None:
    querying = pytest.importorskip("policy_sentry.querying.actions")
    for action in actions(name):
        assert querying.get_action_data(*action.split(":")), action
