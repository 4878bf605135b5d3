"""Ask the API server by dry runs what the admission policies accept and refuse."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.manifests.pod_security import violations
from tests.unit.manifests.test_pod_security import BAD, GOOD

from .conftest import CLUSTER_DIR

KUBECONFIG = CLUSTER_DIR / "etc" / "admin.conf"
DIGEST = "@sha256:" + "0" * 64


def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--kubeconfig", str(KUBECONFIG), "--request-timeout=10s", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def image(kube: Path, base_manifests: None) -> str:
    """Return an image that the cluster's policy allows."""
    params = kubectl("get", "configmap", "-n", "rlvr", "rlvr-job-policy", "-o", "json")
    prefix: str = json.loads(params.stdout)["data"]["imagePrefixes"].split(",")[0].strip()
    return f"{prefix}rlvr-trainer{DIGEST}" if prefix.endswith("/") else f"{prefix}0.1.0{DIGEST}"


def pod(image: str) -> dict[str, Any]:
    return {
        "serviceAccountName": "rlvr-trainer",
        "containers": [{"name": "pytorch", "image": image, "command": ["true"]}],
    }


def pytorchjob(pod_spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    replica = {"replicas": 1, "restartPolicy": "ExitCode", "template": {"spec": pod_spec}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "rlvr-policy-test", "namespace": "rlvr"} | metadata,
        "spec": {"pytorchReplicaSpecs": {"Master": replica, "Worker": copy.deepcopy(replica)}},
    }


def trainjob(image: str | None, pod_spec: dict[str, Any] | None, **spec: Any) -> dict[str, Any]:
    patch = {"name": "node", "template": {"spec": {"template": {"spec": pod_spec}}}}
    body: dict[str, Any] = {
        "runtimeRef": {"name": "torch-distributed", "kind": "ClusterTrainingRuntime"},
        "trainer": {"numNodes": 2} | ({"image": image} if image else {}),
    }
    if pod_spec is not None:
        template = {"spec": {"replicatedJobs": [patch]}}
        body["runtimePatches"] = [
            {"manager": "rlvr.dev/test", "trainingRuntimeSpec": {"template": template}}
        ]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "rlvr-policy-test", "namespace": "rlvr"},
        "spec": body | spec,
    }


def refusal(job: dict[str, Any]) -> str:
    """Return the API server's refusal to create the object; empty if it would create it."""
    done = kubectl(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(job)
    )
    return "" if done.returncode == 0 else done.stderr


def worker(job: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    return spec


def test_a_job_as_we_render_it_is_accepted(image: str) -> None:
    assert refusal(pytorchjob(pod(image))) == ""


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "another service account": (
        lambda spec: spec.update(serviceAccountName="default"),
        ["Worker runs as service account 'default'", "rlvr-trainer", "set service_account"],
    ),
    "no service account": (
        lambda spec: spec.pop("serviceAccountName"),
        ["Worker runs as service account ''", "set service_account"],
    ),
    "the old field of the service account": (
        lambda spec: (spec.pop("serviceAccountName"), spec.update(serviceAccount="rlvr-trainer")),
        ["Worker runs as service account ''"],
    ),
    "another registry": (
        lambda spec: spec["containers"][0].update(image="docker.io/evil/miner:1"),
        ["the image 'docker.io/evil/miner:1'", "push it there", "rlvr/rlvr-job-policy"],
    ),
    "no image": (
        lambda spec: spec["containers"][0].pop("image"),
        ["the image ''"],
    ),
    "an init container from another registry": (
        lambda spec: spec.update(initContainers=[{"name": "init", "image": "alpine"}]),
        ["the image 'alpine'"],
    ),
    "a hostPath": (
        lambda spec: spec.update(volumes=[{"name": "root", "hostPath": {"path": "/"}}]),
        ["the volume 'root' is a hostPath", "use a claim"],
    ),
    "the node's network": (
        lambda spec: spec.update(hostNetwork=True),
        ["Worker asks for hostNetwork", "leave it out"],
    ),
    "the node's processes": (
        lambda spec: spec.update(hostPID=True),
        ["Worker asks for hostNetwork, hostPID"],
    ),
    "a privileged container": (
        lambda spec: spec["containers"][0].update(securityContext={"privileged": True}),
        ["the container 'pytorch' is privileged", "leave that out"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_refusal_says_what_was_got_and_what_to_do(image: str, fault: str) -> None:
    change, words = FAULTS[fault]
    job = pytorchjob(pod(image))
    change(worker(job))
    answer = refusal(job)
    assert "ValidatingAdmissionPolicy 'rlvr-pytorchjobs'" in answer
    assert "PyTorchJob rlvr-policy-test: " in answer
    for word in words:
        assert word in answer


def test_a_prefix_does_not_cover_a_longer_name(image: str) -> None:
    job = pytorchjob(pod(image))
    worker(job)["containers"][0]["image"] = f"evil.example.com/{image}"
    assert "is not from" in refusal(job)


def test_in_other_namespaces_our_jobs_are_held_to_it_and_others_are_not(image: str) -> None:
    foreign = pytorchjob(pod("docker.io/library/python:3"), namespace="default")
    assert refusal(foreign) == ""
    foreign["metadata"]["labels"] = {"app.kubernetes.io/part-of": "rlvr"}
    assert "is not from" in refusal(foreign)


TRAINJOB_FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "another service account": (
        lambda spec: spec.update(serviceAccountName="default"),
        ["runs as service account 'default'"],
    ),
    "no service account": (
        lambda spec: spec.pop("serviceAccountName"),
        ["no service account is set over the runtime ClusterTrainingRuntime/torch-distributed"],
    ),
    "a hostPath": (
        lambda spec: spec.update(volumes=[{"name": "root", "hostPath": {"path": "/"}}]),
        ["the volume 'root' is a hostPath"],
    ),
    "a privileged container": (
        lambda spec: spec.update(
            containers=[{"name": "node", "securityContext": {"privileged": True}}]
        ),
        ["a container is privileged"],
    ),
}


@pytest.fixture
def overrides(image: str) -> dict[str, Any]:
    return {"serviceAccountName": "rlvr-trainer"}


def test_trainjobs_are_accepted_and_refused_likewise(image: str, overrides: dict[str, Any]) -> None:
    assert refusal(trainjob(image, overrides)) == ""
    assert "is not from" in refusal(trainjob("docker.io/evil/miner:1", overrides))
    assert "the image ''" in refusal(trainjob(None, overrides))
    assert "no service account is set" in refusal(trainjob(image, None))


def test_a_trainjob_of_our_own_runtime_needs_neither(overrides: dict[str, Any]) -> None:
    ours = {"name": "rlvr", "kind": "TrainingRuntime"}
    assert refusal(trainjob(None, None, runtimeRef=ours)) == ""


@pytest.mark.parametrize("fault", TRAINJOB_FAULTS)
def test_a_trainjob_may_not_override_these_fields_of_its_runtime(
    image: str, overrides: dict[str, Any], fault: str
) -> None:
    change, words = TRAINJOB_FAULTS[fault]
    change(overrides)
    answer = refusal(trainjob(image, overrides))
    for word in words:
        assert word in answer


SERVER_CANNOT_SAY = {
    # refused before Pod Security, by validation
    "containers[pytorch].securityContext.privileged: true",
    "containers[pytorch].securityContext.procMount: Unmasked",
    "volumes[data]: nfs",
}


@pytest.mark.parametrize("violation", ["", *sorted(BAD.keys() - SERVER_CANNOT_SAY)])
def test_our_evaluator_of_pod_security_and_the_server_agree(image: str, violation: str) -> None:
    spec = copy.deepcopy(GOOD)
    if violation:
        BAD[violation](spec)
    for container in spec["initContainers"] + spec["containers"]:
        container["image"] = image
    manifest = {"apiVersion": "v1", "kind": "Pod", "spec": spec}
    manifest["metadata"] = {"name": "rlvr-policy-test", "namespace": "rlvr"}
    answer = refusal(manifest)
    assert ("violates PodSecurity" in answer) == bool(violations(spec)), answer


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("create", "pytorchjobs.kubeflow.org", True),
        ("delete", "pytorchjobs.kubeflow.org", True),
        ("get", "pods/log", True),
        ("watch", "events", True),
        ("get", "resourcequotas", True),
        ("create", "pods", False),
        ("create", "pods/exec", False),
        ("get", "secrets", False),
        ("update", "configmaps", False),
        ("create", "rolebindings.rbac.authorization.k8s.io", False),
        ("create", "serviceaccounts/token", False),
    ],
)
def test_the_launchers_permissions(image: str, verb: str, resource: str, allowed: bool) -> None:
    for account, may in (("rlvr-launcher", allowed), ("rlvr-trainer", False)):
        name, _, subresource = resource.partition("/")
        question = [verb, name] + ([f"--subresource={subresource}"] if subresource else [])
        user = f"--as=system:serviceaccount:rlvr:{account}"
        answer = kubectl("auth", "can-i", *question, "--namespace", "rlvr", user)
        assert answer.stdout.strip() == ("yes" if may else "no"), (account, answer.stderr)
