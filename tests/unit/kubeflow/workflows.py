"""Argo Workflows as KFP 2.17 compiles from our pipeline, with the nodes that Argo makes of them.

Modelled on backend/src/v2/compiler/argocompiler and on complete installations: with
KFP's stock configuration of Argo every node is retried, and has a child `NAME(0)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

NAME = "rlvr-tiny-x7k2p"
RETRIED_BY_US = ("evaluate-base", "train", "evaluate-trained", "publish")
START = datetime.fromisoformat("2026-11-02T10:00:00+00:00")
PHASES = {
    "LOST": ("Error", "pod deleted"),
    "FAILED": ("Failed", "main: Error (exit code 1)"),
    "TERMINATED": ("Failed", "Step exceeded its deadline"),
    "OMITTED": ("Omitted", ""),
    "RUNNING": ("Running", ""),
    "PENDING": ("Pending", ""),
    "SUCCEEDED": ("Succeeded", ""),
}
Ends = Mapping[str, str | Sequence[str]]
"""Results of tasks or of their attempts: a key of PHASES, or REUSED."""


def workflow(
    tasks: Ends,
    *,
    phase: str = "Running",
    is_stock: bool = True,
    is_terminated: bool = False,
    namespace: str = "kubeflow",
    name: str = NAME,
) -> dict[str, Any]:
    """Return the Workflow of a run with these tasks so far."""
    nodes = {node["id"]: node for node in _nodes(name, tasks, is_stock=is_stock)}
    spec = {"activeDeadlineSeconds": 0} if is_terminated else {}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
        "status": {"phase": phase, "nodes": nodes},
    }


def pod_of(task: str, attempt: int = 0, *, is_stock: bool = True, name: str = NAME) -> str:
    """Return the pod name of a task's attempt."""
    path, template = _executor(name, task, is_stock=is_stock)
    if is_stock or task in RETRIED_BY_US:
        path += f"({attempt})"
    return f"{name}-{template}-{_hash(path)}"


def _executor(name: str, task: str, *, is_stock: bool) -> tuple[str, str]:
    template = "system-container-impl"
    if task in RETRIED_BY_US:
        template = f"retry-{template}"
    again = "(0)" if is_stock else ""
    group = f"{name}{again}.root{again}.exit-handler-1"
    group += ".onExit" if task == "finish" else ""
    return f"{group}{again}.{task}{again}.executor", template


def _nodes(name: str, tasks: Ends, *, is_stock: bool) -> Iterator[dict[str, Any]]:
    again = "(0)" if is_stock else ""
    yield _node(name, name, "Retry" if is_stock else "DAG", "entrypoint", "Running")
    yield from _twice(name, f"{name}{again}.root-driver", "Pod", "system-dag-driver", "Succeeded",
                      is_stock=is_stock)  # fmt: skip
    yield from _twice(name, f"{name}{again}.root", "DAG", "root", "Running", is_stock=is_stock)
    for number, (task, ends) in enumerate(tasks.items()):
        executor, template = _executor(name, task, is_stock=is_stock)
        path = executor.removesuffix(".executor").removesuffix("(0)")
        attempts = [ends] if isinstance(ends, str) else list(ends)
        last = attempts[-1]
        begun = START + timedelta(minutes=10 * number)
        times = {"started": begun, "finished": begun + timedelta(minutes=3)}
        if last == "OMITTED":
            yield _node(name, path, "Skipped", "", "Omitted")
            continue
        yield from _twice(name, f"{path}-driver", "Pod", "system-container-driver", "Succeeded",
                          is_stock=is_stock)  # fmt: skip
        if last == "REUSED":
            yield from _twice(name, path, "DAG", "system-container-executor", "Succeeded",
                              is_stock=is_stock)  # fmt: skip
            yield _node(name, executor, "Skipped", template, "Skipped")
            continue
        phase, message = PHASES[last]
        yield from _twice(name, path, "DAG", "system-container-executor", phase,
                          is_stock=is_stock, **times)  # fmt: skip
        if not is_stock and task not in RETRIED_BY_US:
            yield _node(name, executor, "Pod", template, phase, message=message, **times)
            continue
        yield _node(name, executor, "Retry", template, phase, message=message, **times)
        for attempt, end in enumerate(attempts):
            phase, message = PHASES[end]
            began = begun + timedelta(seconds=30 * attempt)
            yield _node(name, f"{executor}({attempt})", "Pod", template, phase, message=message,
                        started=began, finished=times["finished"])  # fmt: skip


def _twice(
    workflow: str, path: str, kind: str, template: str, phase: str, *, is_stock: bool, **times: Any
) -> Iterator[dict[str, Any]]:
    """Yield a node, and its retried child if every node is retried."""
    yield _node(workflow, path, "Retry" if is_stock else kind, template, phase, **times)
    if is_stock:
        yield _node(workflow, f"{path}(0)", kind, template, phase, **times)


def _node(
    workflow: str,
    path: str,
    kind: str,
    template: str,
    phase: str,
    *,
    message: str = "",
    started: datetime = START,
    finished: datetime | None = None,
) -> dict[str, Any]:
    node = {
        "id": workflow if path == workflow else f"{workflow}-{_hash(path)}",
        "name": path,
        "displayName": path.rpartition(".")[2],
        "type": kind,
        "templateName": template,
        "phase": phase,
        "message": message,
        "startedAt": _stamp(started),
        "finishedAt": None,
    }
    if phase not in ("Running", "Pending"):
        node["finishedAt"] = _stamp(finished or started)
    return node


def _stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _hash(path: str) -> int:
    """Return the 32-bit FNV-1a hash, from which Argo makes node ids."""
    value = 0x811C9DC5
    for byte in path.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return value
