from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr_components.platform.settings_file import parse_platform

from .conftest import COMPONENTS, MANIFESTS, OVERLAYS, build, of_kind, with_component
from .pod_security import violations

Objects = list[dict[str, Any]]

OPERATOR = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: training-operator, namespace: kubeflow}
spec:
  template:
    spec:
      containers:
        - name: training-operator
          volumeMounts: [{name: cert, mountPath: /tmp/k8s-webhook-server/serving-certs}]
      volumes: [{name: cert, secret: {secretName: training-operator-webhook-cert}}]
"""
"""A fake: the patched part of the operator's own Deployment (kubeflow/trainer, v1.9.4)."""


class UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key comes twice among {keys}"
        return super().construct_mapping(node, deep)


def platform(objects: Objects) -> dict[str, Any]:
    text = of_kind(objects, "ConfigMap")["rlvr-platform"]["data"]["platform.yaml"]
    settings: dict[str, Any] = yaml.load(text, Loader=UniqueKeys)
    return settings


def pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every pod spec in an object of any kind."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for item in value.values():
            yield from pod_specs(item)
    elif isinstance(value, list):
        for item in value:
            yield from pod_specs(item)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_and_all_of_it_is_ours(overlay: str) -> None:
    objects = build(MANIFESTS / "overlays" / overlay)
    for item in objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "rlvr", item["metadata"]
    identities = [
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
        for item in objects
    ]
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_builds_over_the_base(component: str, tmp_path: Path, base: Objects) -> None:
    objects = with_component(tmp_path, MANIFESTS / "components" / component, "manifests/base")
    assert objects != base
    parse_platform(platform(objects), origin=component)


@pytest.mark.parametrize("path", sorted(MANIFESTS.rglob("*.yaml")), ids=str)
def test_every_file_parses_and_no_key_comes_twice(path: Path) -> None:
    text = path.read_text()
    if "{{" in text:
        text = re.sub(r"{{\.\w+}}", "1", text)
    assert [*yaml.load_all(text, Loader=UniqueKeys)]


def test_the_namespace_is_restricted(base: Objects) -> None:
    labels = of_kind(base, "Namespace")["rlvr"]["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_everything_namespaced_is_in_our_namespace(base: Objects) -> None:
    cluster_wide = {"Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    for item in base:
        if item["kind"] not in cluster_wide:
            assert item["metadata"]["namespace"] == "rlvr"


def test_the_trainer_has_no_token_and_no_rights(base: Objects) -> None:
    accounts = of_kind(base, "ServiceAccount")
    assert accounts["rlvr-trainer"]["automountServiceAccountToken"] is False
    assert accounts["default"]["automountServiceAccountToken"] is False
    for binding in of_kind(base, "RoleBinding").values():
        assert [subject["name"] for subject in binding["subjects"]] == ["rlvr-launcher"]
    assert not of_kind(base, "ClusterRole")
    assert not of_kind(base, "ClusterRoleBinding")


def test_the_launcher_may_do_what_it_needs_and_nothing_else(base: Objects) -> None:
    granted = {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in of_kind(base, "Role")["rlvr-launcher"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    jobs = {"create", "get", "list", "watch", "patch", "delete"}
    assert granted == {
        "kubeflow.org/pytorchjobs": jobs,
        "trainer.kubeflow.org/trainjobs": jobs,
        "/pods": {"get", "list", "watch"},
        "/pods/log": {"get"},
        "/events": {"list", "watch"},
        "/resourcequotas": {"get", "list"},
        "argoproj.io/workflows": {"get"},
        "/configmaps": {"get"},
    }
    rules = of_kind(base, "Role")["rlvr-launcher"]["rules"]
    named = {
        rule["resources"][0]: rule["resourceNames"] for rule in rules if "resourceNames" in rule
    }
    assert named == {"configmaps": ["rlvr-platform"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_role_has_a_wildcard(overlay: str) -> None:
    for role in of_kind(build(MANIFESTS / "overlays" / overlay), "Role").values():
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]


def test_steps_in_a_profile_have_the_launchers_rights(base: Objects) -> None:
    profile = build(MANIFESTS / "overlays" / "kubeflow")
    ours = of_kind(base, "Role")["rlvr-launcher"]
    assert of_kind(profile, "Role")["rlvr-launcher"]["rules"] == ours["rules"]
    subjects = of_kind(profile, "RoleBinding")["rlvr-launcher"]["subjects"]
    assert {subject["name"] for subject in subjects} == {"default-editor", "pipeline-runner"}
    assert len({item["metadata"]["namespace"] for item in profile}) == 1
    assert {subject["namespace"] for subject in subjects} == {profile[0]["metadata"]["namespace"]}


def egress_blocks(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, policy in of_kind(objects, "NetworkPolicy").items():
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                if "ipBlock" in peer:
                    yield name, peer["ipBlock"]


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"kubeflow"}))
def test_all_traffic_is_denied_that_is_not_allowed(overlay: str) -> None:
    objects = build(MANIFESTS / "overlays" / overlay)
    assert of_kind(objects, "NetworkPolicy")["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    for name, block in egress_blocks(objects):
        if block["cidr"] == "0.0.0.0/0":
            assert "169.254.0.0/16" in block["except"], f"{name} opens the instance's metadata"
        if block["cidr"] == "::/0":
            assert "fd00:ec2::/32" in block["except"], f"{name} opens the instance's metadata"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_platform_settings_are_valid_and_have_our_service_account(overlay: str) -> None:
    settings = platform(build(MANIFESTS / "overlays" / overlay))
    assert parse_platform(settings, origin=overlay).service_account == "rlvr-trainer"


@pytest.mark.parametrize("overlay", sorted({*OVERLAYS} - {"kubeflow"}))
def test_the_admission_policy_allows_the_overlays_own_settings(overlay: str) -> None:
    objects = build(MANIFESTS / "overlays" / overlay)
    allowed, settings = of_kind(objects, "ConfigMap")["rlvr-job-policy"]["data"], platform(objects)
    prefixes = [prefix.strip() for prefix in allowed["imagePrefixes"].split(",")]
    assert all(prefix[-1] in "/:@" for prefix in prefixes)
    assert any(settings["image"].startswith(prefix) for prefix in prefixes)
    assert settings["service_account"] in allowed["serviceAccounts"].split(",")
    if allowed["requireDigest"] == "true":
        assert "@sha256:" in settings["image"]


def test_components_add_their_keys_to_the_platform_settings() -> None:
    settings = platform(build(MANIFESTS / "overlays" / "eks-p5"))
    assert settings["efa_per_node"] == 32
    assert settings["queue"] == "rlvr"
    assert platform(build(MANIFESTS / "overlays" / "eks"))["efa_per_node"] == 1


def test_every_binding_has_its_policy_and_denies_where_parameters_are_missing(
    base: Objects,
) -> None:
    policies = of_kind(base, "ValidatingAdmissionPolicy")
    bindings = of_kind(base, "ValidatingAdmissionPolicyBinding").values()
    assert {binding["spec"]["policyName"] for binding in bindings} == policies.keys()
    for binding in bindings:
        reference = binding["spec"]["paramRef"]
        assert reference["name"] in of_kind(base, "ConfigMap")
        assert reference["parameterNotFoundAction"] == "Deny"
        assert binding["spec"]["validationActions"] == ["Deny"]
    for policy in policies.values():
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert all("messageExpression" in rule for rule in policy["spec"]["validations"])


def test_the_operator_gets_an_init_container_that_restricted_admits(tmp_path: Path) -> None:
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator" / "deployment.yaml").write_text(OPERATOR)
    (tmp_path / "operator" / "kustomization.yaml").write_text("resources: [deployment.yaml]\n")
    objects = with_component(tmp_path, MANIFESTS / "operator", "operator")

    deployment = of_kind(objects, "Deployment")["training-operator"]["spec"]["template"]["spec"]
    (config_map,) = of_kind(objects, "ConfigMap").values()
    assert {volume["name"] for volume in deployment["volumes"]} == {"cert", "init-container"}
    assert deployment["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]
    assert {"name": "init-container", "mountPath": "/etc/config", "readOnly": True} in deployment[
        "containers"
    ][0]["volumeMounts"]

    template = config_map["data"]["initContainer.yaml"]
    assert set(re.findall(r"{{(.*?)}}", template)) == {
        ".InitContainerImage",
        ".MasterAddr",
        ".MaxTries",
    }
    assert "<" not in template, "html/template would take it for a tag"


def init_container(master: str, tries: int) -> dict[str, Any]:
    template = (MANIFESTS / "operator" / "initContainer.yaml").read_text()
    for name, value in {
        "InitContainerImage": "rlvr-components:0.1.0",
        "MasterAddr": master,
        "MaxTries": str(tries),
    }.items():
        template = template.replace("{{." + name + "}}", value)
    (container,) = yaml.safe_load(template)
    return dict(container)


def test_the_init_container_violates_nothing() -> None:
    assert violations({"initContainers": [init_container("job-master-0", 900)]}) == []


@pytest.mark.parametrize(("master", "code"), [("localhost", 0), ("no-such-master.invalid", 1)])
def test_the_init_container_waits_for_the_masters_name(master: str, code: int) -> None:
    container = init_container(master, 1)
    (program,) = container["args"]
    done = subprocess.run(
        [sys.executable, "-c", program.replace("sleep(2)", "sleep(0)")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert master in (done.stderr if code else done.stdout)


@pytest.mark.parametrize("component", COMPONENTS)
def test_pod_templates_in_components_are_restricted(component: str, tmp_path: Path) -> None:
    objects = with_component(tmp_path, MANIFESTS / "components" / component, "manifests/base")
    for item in objects:
        if item["kind"] != "ValidatingAdmissionPolicy":
            for spec in pod_specs(item):
                assert violations(spec) == []
                assert spec["serviceAccountName"] == "rlvr-trainer"


def test_nothing_names_an_account_or_a_private_registry() -> None:
    for path in MANIFESTS.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"(?<![\w-])\d{12}(?![\w-])", text), f"an account's id in {path}"
            assert not re.search(r"\d{12}\.dkr\.ecr", text), f"a registry in {path}"
