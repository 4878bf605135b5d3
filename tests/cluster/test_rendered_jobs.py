"""Check that the real CRDs, admission policies and kubelet accept rendered jobs."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.manifests.test_rendered_jobs import (
    LARGE,
    ON_TWO_NODES,
    PYTORCHJOBS,
    TRAIN,
    patched_pod,
    trainjob,
)

from rlvr_components.jobs import Resources
from rlvr_components.jobs.pytorchjob import render_pytorchjob
from rlvr_components.jobs.trainjob import OverridesField, overrides_field
from rlvr_components.platform.settings import Platform

from .conftest import CLUSTER_DIR, Kubectl

ALLOWED = {"image": "rlvr-trainer:0.1.0", "namespace": "rlvr"}
"""Allowed by the policy of manifests/overlays/local."""
FIELD_OF_TRAINER: dict[str, OverridesField] = {
    "2.0.0": "podSpecOverrides",
    "2.1.0": "podTemplateOverrides",
    "2.2.0": "runtimePatches",
}
"""Versions of Trainer older than the cluster's."""


def refusal(kubectl: Kubectl, job: dict[str, Any]) -> str:
    """Return the API server's refusal to create the object; empty if it would create it."""
    command = ["kubectl", "--kubeconfig", str(kubectl.kubeconfig), "create", "-f", "-"]
    done = subprocess.run(
        [*command, "--dry-run=server", "--validate=strict"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return "" if done.returncode == 0 else done.stderr


def openapi(kubectl: Kubectl, group: str) -> dict[str, Any]:
    obj: dict[str, Any] = json.loads(
        kubectl("get", "--raw", f"/openapi/v3/apis/{group}/v1alpha1", check=False) or "{}"
    )
    return obj


@pytest.fixture(scope="module")
def api(kube: Path, base_manifests: None) -> Kubectl:
    return Kubectl(kube, "rlvr")


@pytest.mark.parametrize("name", PYTORCHJOBS)
def test_pytorchjobs_fit_the_crd_and_the_policies(api: Kubectl, name: str) -> None:
    spec, platform = PYTORCHJOBS[name]

    assert refusal(api, render_pytorchjob(spec, platform.model_copy(update=ALLOWED))) == ""


def test_a_trainjob_fits_the_crd_in_the_words_of_this_api_server(api: Kubectl) -> None:
    field = overrides_field(openapi(api, "trainer.kubeflow.org"))
    assert field == "runtimePatches"

    assert refusal(api, trainjob(field, **ALLOWED)) == ""
    assert refusal(api, trainjob(field, **ALLOWED, stop_grace_s=600)) == ""


@pytest.fixture(params=FIELD_OF_TRAINER)
def older_trainer(api: Kubectl, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Install a version of Trainer; yield it and the API group of its CRD beside the newest one."""
    version: str = request.param
    group = f"trainer-{version.replace('.', '-')}.rlvr.dev"
    crd = yaml.safe_load((CLUSTER_DIR / "trainer-crds/older" / f"{version}.yaml").read_text())
    crd["metadata"]["name"], crd["spec"]["group"] = f"trainjobs.{group}", group
    api("apply", "--server-side", "-f", "-", stdin=json.dumps(crd))
    api.wait("the API server knows it", lambda: "components" in openapi(api, group))
    yield version, group
    api("delete", "crd", f"trainjobs.{group}", "--wait=false")


def test_a_trainjob_fits_the_crds_of_older_versions(
    api: Kubectl, older_trainer: tuple[str, str]
) -> None:
    version, group = older_trainer
    field = overrides_field(openapi(api, group))
    assert field == FIELD_OF_TRAINER[version]

    job = trainjob(field, **ALLOWED) | {"apiVersion": f"{group}/v1alpha1"}

    assert refusal(api, job) == ""


def test_the_crd_is_strict_with_a_field_of_another_version(api: Kubectl) -> None:
    job = trainjob("podTemplateOverrides", **ALLOWED)

    assert 'unknown field "spec.podTemplateOverrides"' in refusal(api, job)


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another service account": (
        lambda pod: pod.update(serviceAccountName="rlvr-launcher"),
        "runs as service account 'rlvr-launcher'",
    ),
    "the node's files": (
        lambda pod: pod["volumes"].append({"name": "node", "hostPath": {"path": "/"}}),
        "'node' is a hostPath",
    ),
    "the node's network": (lambda pod: pod.update(hostNetwork=True), "asks for hostNetwork"),
    "a container beside ours": (
        lambda pod: pod["containers"].append({"name": "other", "image": "docker.io/other:1"}),
        "'docker.io/other:1' is not from",
    ),
    "privileges": (
        lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
        "'pytorch' is privileged",
    ),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_the_policies_refuse_an_accepted_job_with_a_hostile_change(
    api: Kubectl, change: str
) -> None:
    tamper, reason = HOSTILE[change]
    job = render_pytorchjob(ON_TWO_NODES, LARGE.model_copy(update=ALLOWED))
    assert refusal(api, job) == ""
    job = copy.deepcopy(job)

    tamper(job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"])

    assert reason in refusal(api, job)


@pytest.mark.parametrize("change", ["another service account", "the node's files"])
def test_the_policies_refuse_an_accepted_trainjob_with_a_hostile_change(
    api: Kubectl, change: str
) -> None:
    tamper, reason = HOSTILE[change]
    field: OverridesField = "runtimePatches"
    job = copy.deepcopy(trainjob(field, **ALLOWED))
    assert refusal(api, job) == ""

    tamper(patched_pod(job, field))

    assert reason in refusal(api, job)


# Compare a pod's surroundings with its rendering. The master reports for both, since the operator
# deletes pods that still run when the master has ended.
LOOK_AROUND = """
import errno, os, pathlib, socket
for folder in ("/tmp", "/scratch", "/dev/shm"):
    (pathlib.Path(folder) / "file").write_text("x")
try:
    pathlib.Path("/file").write_text("x")
    raise SystemExit("the root file system can be written")
except OSError as error:
    assert error.errno == errno.EROFS, error
assert os.getuid() == 65532, os.getuid()
assert not os.path.exists("/var/run/secrets/kubernetes.io"), "a token"
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20
assert os.environ["AWS_ENDPOINT_URL_S3"] and os.environ["GREETING"] == "hello"
assert not any(name.endswith("_SERVICE_HOST") and name != "KUBERNETES_SERVICE_HOST"
               for name in os.environ), "links to services"
me = " ".join(os.environ[f"PET_{name}"] for name in ("NODE_RANK", "NNODES", "NPROC_PER_NODE"))
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if os.environ["RANK"] == "0":
    connection, _ = socket.create_server(("", address[1])).accept()
    print(me)
    print(connection.makefile().read())
else:
    socket.create_connection(address, 60).sendall(me.encode())
"""


@pytest.mark.timeout(180)
def test_pods_of_a_rendered_job_find_what_it_promises(kubectl: Kubectl, payload_image: str) -> None:
    platform = Platform(
        image=payload_image,
        namespace=kubectl.namespace,
        shm_gib=1 / 16,
        memory_gib_per_node=0.25,
        secrets=("rlvr-s3",),
        env={"GREETING": "hello"},
        stop_grace_s=5,
    )
    spec = replace(TRAIN, command=("python", "-c", LOOK_AROUND), resources=Resources(num_nodes=2))
    job = render_pytorchjob(spec, platform)

    account = {"name": platform.service_account, "namespace": kubectl.namespace}
    kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}, job)

    def has_ended() -> bool:
        conditions = kubectl.get("pytorchjob", spec.name).get("status", {}).get("conditions", [])
        return any(condition["type"] in ("Succeeded", "Failed") for condition in conditions)

    kubectl.wait("the job ends", has_ended, timeout_s=120)
    assert kubectl("logs", f"{spec.name}-master-0").splitlines() == ["0 2 1", "1 2 1"]
