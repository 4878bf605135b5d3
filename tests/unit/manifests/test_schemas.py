"""Validate by schemas and checkov, where installed: pip install checkov kubernetes-validate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import COMPONENTS, MANIFESTS, OVERLAYS, build, with_component
from .test_manifests import init_container, pod_specs

Objects = list[dict[str, Any]]
CUSTOM_GROUPS = ("kueue.x-k8s.io/", "trainer.kubeflow.org/", "kubeflow.org/")
KUBERNETES = "1.34"
WAITING: dict[str, Any] = {
    "serviceAccountName": "rlvr-trainer",
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [init_container("job-master-0", 900)],
}
"""Return a pod with only the operator's init container."""


def pods_within(objects: Objects) -> Objects:
    """Return pod specs of custom resources as Pods: the tools know only Kubernetes' own kinds."""
    pods = []
    for item in objects:
        if item["apiVersion"].startswith(CUSTOM_GROUPS):
            for index, spec in enumerate(pod_specs(item)):
                name = f"{item['metadata']['name']}-{index}"
                pods.append(pod(name, item["metadata"]["namespace"], spec))
    return pods


def pod(name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    """Return all shipped objects, each once, with the pods that they make."""
    every = [item for overlay in OVERLAYS for item in build(MANIFESTS / "overlays" / overlay)]
    for component in COMPONENTS:
        scratch = tmp_path_factory.mktemp(component)
        every += with_component(scratch, MANIFESTS / "components" / component, "manifests/base")
    every += [*pods_within(every), pod("init-pytorch", "rlvr", WAITING)]
    return [*{json.dumps(item, sort_keys=True): item for item in every}.values()]


def test_objects_fit_kubernetes_schemas(objects: Objects) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for item in objects:
        if not item["apiVersion"].startswith(CUSTOM_GROUPS):
            kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_checkov_finds_nothing_but_the_listed_exceptions(objects: Objects, tmp_path: Path) -> None:
    pytest.importorskip("checkov")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))
    command = [
        sys.executable,
        "-m",
        "checkov.main",
        "--config-file",
        str(MANIFESTS / ".checkov.yaml"),
    ]
    command += ["--file", str(tmp_path / "all.yaml"), "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    failed = [
        f"{check['check_id']} {check['resource']}: {check['check_name']}"
        for check in report["results"]["failed_checks"]
    ]
    assert not failed, "\n".join(failed)
    assert report["summary"]["passed"] > 50
