"""What is watched outlives credentials that cannot be had for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from rlvr_components.jobs.kinds import PYTORCHJOB
from rlvr_components.kubernetes.access import find_access
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.kubernetes.logs import Container, LogFollower
from rlvr_components.kubernetes.watch import Collection
from rlvr_trainer.errors import ConfigError

from .fake_api_server import FakeApiServer
from .objects import pod

NAME = "tiny-worker-0"


class Plugin:
    """A program that fails its first times, as without a network."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._failures_left = 3

    def value(self) -> str:
        if self._failures_left:
            self._failures_left -= 1
            raise ConfigError("user 'me': aws failed (no network); log in with your provider")
        return self._token

    def refresh(self) -> bool:
        return True


def client_with_plugin(api: FakeApiServer) -> KubernetesApi:
    return KubernetesApi(replace(find_access(), token=Plugin(api.token)))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert holds()


def test_a_watch_goes_on_once_there_is_a_token_again(api: FakeApiServer) -> None:
    found = pod()
    api.put("pods", found)
    path = f"/api/v1/namespaces/{found['metadata']['namespace']}/pods"

    watched = Collection(client_with_plugin(api), path, {}, changed=lambda: None)
    watched.start()
    try:
        wait_until(lambda: watched.is_synced)
        assert [each["metadata"]["name"] for each in watched.objects()] == [NAME]
        assert watched.error is None
    finally:
        watched.close()


def test_a_log_goes_on_once_there_is_a_token_again(api: FakeApiServer) -> None:
    found = pod()
    api.put("pods", found)
    api.log(NAME, "one")
    container = Container(found["metadata"]["namespace"], NAME, PYTORCHJOB.container, "worker-0")
    lines: list[str] = []

    follower = LogFollower(
        client_with_plugin(api),
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
