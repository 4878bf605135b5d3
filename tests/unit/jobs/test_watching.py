"""Watches and logs continue after a time without credentials."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from rlvr_components.jobs.kinds import PYTORCHJOB
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.kubernetes.container_logs import Container, LogFollower
from rlvr_components.kubernetes.watch import Collection

from .fake_api_server import FakeApiServer
from .objects import pod

NAME = "tiny-worker-0"


PLUGIN = """
import json, os, pathlib, sys
runs = pathlib.Path(os.environ["RUNS"])
number = len(runs.read_text()) if runs.exists() else 0
runs.write_text("x" * (number + 1))
if 0 < number < 4:
    sys.exit("no network")
asked = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
token = os.environ["TOKEN"] if number else "expired"
print(json.dumps({**asked, "status": {"token": token}}))
"""


def client_with_plugin(api: FakeApiServer, folder: Path) -> KubernetesApi:
    """Return a client whose token is refused, and whose plugin then fails three times."""
    env = [
        {"name": "RUNS", "value": str(folder / "runs")},
        {"name": "TOKEN", "value": api.token},
    ]
    program = {"command": sys.executable, "args": ["-c", PLUGIN], "env": env}
    version = "client.authentication.k8s.io/v1"
    path = Path(os.environ["KUBECONFIG"])
    tree = yaml.safe_load(path.read_text())
    tree["users"] = [{"name": "me", "user": {"exec": {"apiVersion": version, **program}}}]
    path.write_text(yaml.safe_dump(tree))
    return KubernetesApi()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


def test_a_watch_continues_once_there_is_a_token_again(api: FakeApiServer, tmp_path: Path) -> None:
    obj = pod()
    api.put("pods", obj)
    path = f"/api/v1/namespaces/{obj['metadata']['namespace']}/pods"

    watched = Collection(client_with_plugin(api, tmp_path), path, {}, changed=lambda: None)
    watched.start()
    try:
        wait_until(lambda: watched.is_synced)
        assert [item["metadata"]["name"] for item in watched.objects()] == [NAME]
        assert watched.error is None
    finally:
        watched.close()


def test_a_log_continues_once_there_is_a_token_again(api: FakeApiServer, tmp_path: Path) -> None:
    obj = pod()
    api.put("pods", obj)
    api.log(NAME, "one")
    container = Container(obj["metadata"]["namespace"], NAME, PYTORCHJOB.container, "worker-0")
    lines: list[str] = []

    follower = LogFollower(
        client_with_plugin(api, tmp_path),
        container,
        state=lambda: "running",
        put=lines.append,
    )
    follower.start()
    try:
        wait_until(lambda: bool(lines))
        assert lines == ["[worker-0] one"]
    finally:
        follower.close()
