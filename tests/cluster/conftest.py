"""Fixtures for tests that run jobs on the cluster started by up.sh.

`make test-cluster` starts and removes it; while writing a test, `make cluster-up` once and
`pytest tests/cluster -m cluster` repeatedly is quicker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer import __version__

HERE = Path(__file__).parent
CLUSTER_DIR = Path(os.environ.get("RLVR_CLUSTER_DIR") or Path.home() / ".cache/rlvr/cluster")
NODE_IP = "10.244.0.1"

RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""A container's securityContext that Pod Security *restricted* accepts."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: only `make test-cluster-full` runs it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@dataclass(frozen=True)
class S3:
    """The cluster's S3 server, at the same address for this machine and for pods."""

    endpoint: str = f"http://{NODE_IP}:7070"
    bucket: str = "rlvr"
    access_key: str = "rlvr-test"
    secret_key: str = "rlvr-test-secret"
    region: str = "us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """Return boto3's variables; the namespace's Secret `rlvr-s3` holds the same."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )


@dataclass(frozen=True)
class Cluster:
    """The cluster's processes, for tests that stop one of them."""

    kubeconfig: Path

    def pid(self, name: str) -> int:
        """Return the process id of kube-apiserver, kubelet, containerd, etcd, s3, …"""
        return int((CLUSTER_DIR / "run" / f"{name}.pid").read_text())

    def stop(self, name: str) -> None:
        """Send SIGTERM, then SIGKILL after ten seconds; keep the command line for `start`."""
        command = self._command(name).read_text()
        self._script("stop", name)
        self._command(name).write_text(command)

    def start(self, name: str) -> None:
        """Start a stopped process as up.sh did."""
        self._script("eval start", name, self._command(name).read_text())

    def _command(self, name: str) -> Path:
        return CLUSTER_DIR / "run" / f"{name}.command"

    def _script(self, *words: str) -> None:
        script = f"source {HERE}/env.sh; {' '.join(words)}"
        subprocess.run(["bash", "-c", script], check=True, stdin=subprocess.DEVNULL)


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the cluster's kubeconfig, in one namespace."""

    kubeconfig: Path
    namespace: str

    def __call__(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "-n", self.namespace]
        result = subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, timeout=120
        )
        if check and result.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create the objects; an invalid field is an error, not a warning."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("create", "--validate=strict", "-f", "-", stdin=json.dumps(listed))

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return the parsed output of `kubectl get ARGUMENTS -o json`."""
        objects: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json"))
        return objects

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wait until `condition()` is true; fail with the message `what` after the time-out."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not after {timeout_s} s: {what}"
            time.sleep(0.2)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return the running cluster; start it, and remove it afterwards, unless it is running."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("the cluster needs root on Linux (containers, network namespaces)")
    kubeconfig = CLUSTER_DIR / "etc" / "admin.conf"
    ready = ["kubectl", "--kubeconfig", str(kubeconfig), "get", "--raw", "/readyz"]
    if subprocess.run(ready, capture_output=True).returncode == 0:
        yield Cluster(kubeconfig)
        return
    try:
        subprocess.run([HERE / "up.sh"], check=True, stdin=subprocess.DEVNULL)
        yield Cluster(kubeconfig)
    finally:
        subprocess.run([HERE / "down.sh"], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Path:
    """Return the path of the cluster administrator's kubeconfig."""
    return cluster.kubeconfig


@pytest.fixture(scope="session")
def s3(cluster: Cluster) -> S3:
    return S3()


@pytest.fixture(scope="session")
def base_manifests(kube: Path) -> None:
    """Apply manifests/overlays/local: namespace `rlvr`, roles, quota, admission policies."""
    kubectl = Kubectl(kube, "rlvr")
    kubectl("apply", "--server-side", "-k", str(HERE / "manifests" / "rlvr"))

    def is_counted() -> bool:
        quota = kubectl.get("resourcequota", "rlvr")
        return quota["spec"]["hard"].keys() == quota.get("status", {}).get("used", {}).keys()

    kubectl.wait("the quota counts kinds that came with a CRD", is_counted, timeout_s=90)


@pytest.fixture
def namespace(kube: Path, s3: S3, request: pytest.FixtureRequest) -> Iterator[str]:
    """Create a namespace under Pod Security *restricted*, with the Secret `rlvr-s3`."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    kubectl = Kubectl(kube, name)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "rlvr-s3", "namespace": name},
            "stringData": s3.environment,
        },
    )
    kubectl.wait(
        "the namespace has its service account",
        lambda: "default" in kubectl("get", "serviceaccounts", "-o", "name"),
    )
    yield name
    if request.node.stash.get(FAILED, False):
        print(kubectl("get", "pytorchjobs,trainjobs,pods,events", "-o", "wide", check=False))
    # a process that ignores SIGTERM would keep the namespace for its grace period
    kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false", check=False)
    kubectl("delete", "namespace", name, "--wait=true", "--timeout=100s")


@pytest.fixture
def kubectl(kube: Path, namespace: str) -> Kubectl:
    return Kubectl(kube, namespace)


@pytest.fixture(scope="session")
def payload_image() -> str:
    """Return an image of Python, this package and boto3 without torch, for faults of jobs alone."""
    return f"rlvr-components:{__version__}"


@pytest.fixture(scope="session")
def trainer_image() -> str:
    return f"rlvr-trainer:{__version__}"


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report
