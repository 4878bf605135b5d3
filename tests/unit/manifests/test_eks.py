from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.mark.parametrize("path", sorted(EKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_nodes_are_private_encrypted_and_repaired(path: Path) -> None:
    for group in yaml.safe_load(path.read_text())["managedNodeGroups"]:
        assert group["privateNetworking"]
        assert group["volumeEncrypted"]
        assert group["disablePodIMDS"], "pods would have the node's role"
        assert group["nodeRepairConfig"] == {"enabled": True}
        if "labels" in group:  # where jobs run
            assert group["efaEnabled"]
            assert group["availabilityZones"] == ["MY_ZONE"]
            config = yaml.safe_load(group["overrideBootstrapCommand"])
            assert config["spec"]["instance"]["localStorage"] == {"strategy": "RAID0"}


@pytest.mark.parametrize("overlay", ["eks", "eks-p5"])
def test_jobs_go_to_a_pool_that_there_is(overlay: str) -> None:
    (settings,) = yaml.safe_load_all(
        (MANIFESTS / "overlays" / overlay / "platform.yaml").read_text()
    )
    pools = [
        group["labels"]
        for path in EKS.glob("*.yaml")
        for group in yaml.safe_load(path.read_text())["managedNodeGroups"]
        if "labels" in group
    ]
    assert settings["node_selector"] in pools


def test_the_walk_through_fills_in_every_placeholder() -> None:
    filled = set(re.findall(r"s[/|](MY_[A-Z_]+)[/|]", (EKS / "README.md").read_text()))
    used = {
        name
        for path in MANIFESTS.rglob("*")
        if path.suffix in {".yaml", ".json"}
        for name in re.findall(r"MY_[A-Z][A-Z_]+", path.read_text())
    }
    assert used == filled
