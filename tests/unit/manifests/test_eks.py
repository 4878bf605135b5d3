from __future__ import annotations

import json
import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
import yaml

from rlvr_components.platform.settings_file import parse_platform
from rlvr_components.preflight import form
from rlvr_pipelines.cli import main as cli
from rlvr_trainer.recipe.batch import batch_of
from rlvr_trainer.recipe.reader import load_recipe, shipped_recipes
from rlvr_trainer.storage import LocalStorage

from .conftest import MANIFESTS

EKS = MANIFESTS / "eks"
IDENTITIES = sorted((EKS / "iam").glob("*.json"))
SHIPPED = shipped_recipes()


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


def allows(identity: str, action: str, key: str) -> bool:
    """Return True if the policy allows the action on a key, or for a list on all keys below it."""
    for statement in statements(EKS / "iam" / f"{identity}.json").values():
        if action in as_list(statement["Action"]):
            prefixes = statement.get("Condition", {"StringLike": {"s3:prefix": []}})
            patterns = [
                *(
                    resource.partition("MY_BUCKET/")[2]
                    for resource in as_list(statement["Resource"])
                ),
                *as_list(prefixes["StringLike"]["s3:prefix"]),
            ]
            # IAM's * takes in slashes, as fnmatch's does
            if any(fnmatchcase(key, pattern) for pattern in patterns):
                return True
    return False


@pytest.mark.parametrize("identity", ["trainer", "launcher"])
def test_an_identity_reads_inputs_and_keeps_runs(identity: str) -> None:
    for key in ("data/rows.jsonl", "models/qwen/config.json", "runs/a/recipe.json"):
        assert allows(identity, "s3:GetObject", key)
        assert allows(identity, "s3:ListBucket", key)
        assert allows(identity, "s3:PutObject", key) == key.startswith("runs/")


class Probed(LocalStorage):
    """Storage that records its deletions."""

    deleted: ClassVar[list[str]] = []

    def delete(self, key: str) -> None:
        self.deleted.append(key)
        super().delete(key)


def test_the_launcher_removes_the_probe_of_the_check_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "open_storage", lambda uri: Probed(Path(uri)))
    form.check_storage(str(tmp_path))

    (probe,) = Probed.deleted
    assert allows("launcher", "s3:DeleteObject", f"runs/gsm8k-1/{probe}")
    for key in ("metrics.jsonl", "checkpoints/step-10.attempt-1/weights", "adapter/weights"):
        assert not allows("launcher", "s3:DeleteObject", f"runs/gsm8k-1/{key}")


def test_the_trainer_prunes_checkpoints_and_deletes_nothing_else() -> None:
    assert allows("trainer", "s3:DeleteObject", "runs/a/checkpoints/step-10.attempt-1/weights")
    for key in ("runs/a/metrics.jsonl", "runs/a/adapter/weights", "data/rows.jsonl"):
        assert not allows("trainer", "s3:DeleteObject", key)
    for path in IDENTITIES:  # restorable for 30 days
        assert "s3:DeleteObjectVersion" not in actions(path)


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
def test_jobs_go_to_an_existing_pool(overlay: str) -> None:
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


GPUS = {"g6.12xlarge": 4, "p5.48xlarge": 8}


@pytest.mark.parametrize("overlay", ["eks", "eks-p5"])
def test_jobs_have_all_gpus_of_their_nodes_and_the_published_recipe_fits(overlay: str) -> None:
    settings = parse_platform(
        yaml.safe_load((MANIFESTS / "overlays" / overlay / "platform.yaml").read_text()),
        origin=overlay,
    )
    (group,) = (
        group
        for name in ("cluster.yaml", "nodes-p5.yaml")
        for group in yaml.safe_load((EKS / name).read_text())["managedNodeGroups"]
        if group.get("labels") == settings.node_selector
    )
    assert settings.gpus_per_node == GPUS[group["instanceType"]]
    assert 1 < settings.num_nodes <= group["maxSize"]
    (quota, _) = yaml.safe_load_all((MANIFESTS / "base" / "quota.yaml").read_text())
    assert settings.world_size <= int(quota["spec"]["hard"]["requests.nvidia.com/gpu"])
    batch_of(load_recipe("gsm8k", []), settings.world_size)


def test_commands_of_the_walk_through_have_existing_arguments() -> None:
    lines = re.findall(r"^rlvr (?:run|plan|compile) .*$", (EKS / "README.md").read_text(), re.M)
    assert len(lines) > 2
    for line in lines:
        verb, *arguments = shlex.split(line, comments=True)[1:]
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        given = command.make_context(verb, arguments).params
        if given.get("place") in ("pytorchjob", "trainjob"):
            assert given["storage"].startswith("s3://"), f"a job has a storage: {line}"


def test_steps_of_a_pipeline_have_the_launchers_identity() -> None:
    text = (EKS / "README.md").read_text()
    profile = yaml.safe_load_all((MANIFESTS / "overlays/kubeflow/profile.yaml").read_text())
    (binding,) = (item for item in profile if item["kind"] == "RoleBinding")
    associated = re.findall(r"^associate (\S+) (\S+)(?: .*: (\S+))?$", text, re.M)
    launchers = {
        name for *names, policy, other in associated for name in (*names, other)
        if policy == "rlvr-launcher"
    }  # fmt: skip
    assert launchers == {subject["name"] for subject in binding["subjects"]}


def test_the_walk_through_fills_in_every_placeholder() -> None:
    filled = set(re.findall(r"s[/|](MY_[A-Z_]+)[/|]", (EKS / "README.md").read_text()))
    used = {
        name
        for path in MANIFESTS.rglob("*")
        if path.suffix in {".yaml", ".json"}
        for name in re.findall(r"MY_[A-Z][A-Z_]+", path.read_text())
    }
    assert used == filled
