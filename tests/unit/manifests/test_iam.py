from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import MANIFESTS

EKS = MANIFESTS / "eks"
IDENTITIES = sorted((EKS / "iam").glob("*.json"))
RUNS = "arn:aws:s3:::MY_BUCKET/runs/*"


def statements(path: Path) -> dict[str, dict[str, Any]]:
    document = json.loads(path.read_text())
    assert document["Version"] == "2012-10-17"
    return {statement["Sid"]: statement for statement in document["Statement"]}


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(path: Path) -> set[str]:
    return {
        action for statement in statements(path).values() for action in as_list(statement["Action"])
    }


@pytest.mark.parametrize("path", IDENTITIES, ids=lambda path: path.stem)
def test_an_identity_has_named_actions_on_our_bucket_only(path: Path) -> None:
    assert not [action for action in actions(path) if "*" in action]
    for statement in statements(path).values():
        assert statement["Effect"] == "Allow"
        for resource in as_list(statement["Resource"]):
            assert resource.startswith("arn:aws:s3:::MY_BUCKET")
        if "s3:ListBucket" in as_list(statement["Action"]):
            prefixes = as_list(statement["Condition"]["StringLike"]["s3:prefix"])
            assert all(prefix.endswith("/*") and len(prefix) > 2 for prefix in prefixes)


@pytest.mark.parametrize("path", IDENTITIES, ids=lambda path: path.stem)
def test_every_action_exists(path: Path) -> None:
    querying = pytest.importorskip("policy_sentry.querying.actions")
    for action in actions(path):
        assert querying.get_action_data(*action.split(":")), action


def test_the_trainer_deletes_nothing_and_the_launcher_checkpoints_only() -> None:
    assert not [action for action in actions(EKS / "iam" / "trainer.json") if "Delete" in action]
    launcher = statements(EKS / "iam" / "launcher.json").values()
    deleting = [statement for statement in launcher if "s3:DeleteObject" in statement["Action"]]
    assert [statement["Resource"] for statement in deleting] == [RUNS + "/checkpoints/*"]


def test_the_trainer_writes_to_runs_only() -> None:
    for statement in statements(EKS / "iam" / "trainer.json").values():
        if "s3:PutObject" in statement["Action"]:
            assert statement["Resource"] == RUNS


def test_the_bucket_is_reached_by_tls_only_and_forgets_uploads() -> None:
    rules = statements(EKS / "bucket" / "policy.json")
    assert {rule["Effect"] for rule in rules.values()} == {"Deny"}
    assert rules["OnlyByTls"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    lifecycle = json.loads((EKS / "bucket" / "lifecycle.json").read_text())["Rules"]
    assert any("AbortIncompleteMultipartUpload" in rule for rule in lifecycle)
