from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from .pod_security import violations

GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    "initContainers": [
        {
            "name": "init",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "containers": [
        {
            "name": "pytorch",
            "ports": [{"containerPort": 23456}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            },
        }
    ],
}

Change = Callable[[dict[str, Any]], object]


def on_container(**fields: Any) -> Change:
    return lambda spec: spec["containers"][0]["securityContext"].update(fields)


BAD: dict[str, Change] = {
    "hostNetwork: true": lambda spec: spec.update(hostNetwork=True),
    "hostPID: true": lambda spec: spec.update(hostPID=True),
    "hostIPC: true": lambda spec: spec.update(hostIPC=True),
    "volumes[root]: hostPath": lambda spec: spec["volumes"].append(
        {"name": "root", "hostPath": {"path": "/"}}
    ),
    "volumes[data]: nfs": lambda spec: spec["volumes"].append({"name": "data", "nfs": {}}),
    "securityContext.sysctls: kernel.msgmax": lambda spec: spec["securityContext"].update(
        sysctls=[{"name": "kernel.msgmax", "value": "1"}]
    ),
    "securityContext.runAsUser: 0": lambda spec: spec["securityContext"].update(runAsUser=0),
    "securityContext.seccompProfile: Unconfined": lambda spec: spec["securityContext"].update(
        seccompProfile={"type": "Unconfined"}
    ),
    "containers[pytorch].securityContext.seccompProfile: missing": lambda spec: spec[
        "securityContext"
    ].pop("seccompProfile"),
    "containers[pytorch].securityContext.runAsNonRoot: is not true": on_container(
        runAsNonRoot=False
    ),
    "containers[pytorch].securityContext.privileged: true": on_container(privileged=True),
    "containers[pytorch].securityContext.allowPrivilegeEscalation: is not false": on_container(
        allowPrivilegeEscalation=None
    ),
    "containers[pytorch].securityContext.capabilities.drop: lacks ALL": on_container(
        capabilities={"drop": ["NET_RAW"]}
    ),
    "containers[pytorch].securityContext.capabilities.add: IPC_LOCK": on_container(
        capabilities={"drop": ["ALL"], "add": ["IPC_LOCK"]}
    ),
    "containers[pytorch].securityContext.procMount: Unmasked": on_container(procMount="Unmasked"),
    "containers[pytorch].securityContext.appArmorProfile: Unconfined": on_container(
        appArmorProfile={"type": "Unconfined"}
    ),
    "containers[pytorch].ports: hostPort 80": lambda spec: spec["containers"][0].update(
        ports=[{"containerPort": 80, "hostPort": 80}]
    ),
    "initContainers[init].securityContext.capabilities.drop: lacks ALL": lambda spec: spec[
        "initContainers"
    ][0]["securityContext"].pop("capabilities"),
}


def test_a_restricted_pod_passes() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize("violation", BAD)
def test_a_violation_is_found(violation: str) -> None:
    spec = copy.deepcopy(GOOD)
    BAD[violation](spec)
    assert violation in violations(spec)


def test_an_empty_pod_violates() -> None:
    assert violations({"containers": [{"name": "a"}]}) == [
        "containers[a].securityContext.allowPrivilegeEscalation: is not false",
        "containers[a].securityContext.runAsNonRoot: is not true",
        "containers[a].securityContext.seccompProfile: missing",
        "containers[a].securityContext.capabilities.drop: lacks ALL",
    ]
