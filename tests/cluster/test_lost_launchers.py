"""Lose the pod of a step that follows a job, under Argo's real controller.

The Workflow has the shape that KFP 2.17 compiles of our pipeline, with the steps `train` and
`finish` alone and without drivers; `step_container.py` plays KFP's launcher, `go/argoexec` Argo's
executor. The job is one that no node has room for, so that nothing trains.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from rlvr_components.workflow import StepAttempt, WorkflowStep, find_failure, steps_of
from rlvr_trainer.storage import open_storage

from .conftest import HERE, Cluster
from .test_kubeflow_steps import Pipeline, compiled, pipeline, prepared, settle

__all__ = ["pipeline", "prepared"]

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

TIMEOUT_S = 200
Retries = dict[str, Any] | None
"""Argo's `templateDefaults`."""
STOCK: Retries = {"retryStrategy": {"limit": 2, "retryPolicy": "OnError"}}
"""As KFP 2.17 ships it."""
NONE: Retries = None
"""As earlier releases do."""
README = (HERE.parents[1] / "manifests" / "README.md").read_text("utf-8")
[SNIPPET] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
OURS: Retries = yaml.safe_load(SNIPPET)["spec"]["templateDefaults"]

RESULTS = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "executor"},
    "rules": [
        {
            "apiGroups": ["argoproj.io"],
            "resources": ["workflowtaskresults"],
            "verbs": ["create", "patch"],
        }
    ],
}
"""The rights that KFP grants its service account for Argo's executor."""


@pytest.fixture(scope="module")
def argo(cluster: Cluster) -> None:
    """Start Argo's controller; it stays as long as the cluster."""
    subprocess.run([HERE / "argo.sh"], check=True, stdin=subprocess.DEVNULL)


@dataclass
class Run:
    """A run as a Workflow."""

    name: str
    pipeline: Pipeline
    retries: Retries

    def start(self) -> None:
        """Create the Workflow."""
        self.pipeline.kubectl.apply(self._workflow())

    def follows(self, attempt: int = 1) -> str:
        """Wait until that attempt of the launcher follows its job; return the job's uid."""

        def is_followed() -> bool:
            attempts = self.train.attempts
            return len(attempts) >= attempt and "pending: " in self.log(attempts[attempt - 1])

        self.pipeline.kubectl.wait(f"attempt {attempt} follows the job", is_followed, TIMEOUT_S)
        [job] = self.jobs()
        return str(job["metadata"]["uid"])

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of this run."""
        return [
            job
            for job in self.pipeline.jobs()
            if job["metadata"]["labels"]["pipeline/runid"] == self.pipeline.run_id
        ]

    def ended(self) -> str:
        """Wait until the Workflow, with its last step, has ended; return its phase."""

        def phase() -> str:
            return str((self.workflow.get("status") or {}).get("phase"))

        self.pipeline.kubectl.wait(
            "the run has ended", lambda: phase() in ("Failed", "Error"), TIMEOUT_S
        )
        return phase()

    def outcome(self) -> dict[str, Any]:
        """Return what Finish wrote."""
        facts: dict[str, Any] = json.loads(
            open_storage(self.pipeline.folder).read_bytes("outcome.json")
        )
        return facts

    @property
    def workflow(self) -> dict[str, Any]:
        return self.pipeline.kubectl.get("workflow", self.name)

    @property
    def train(self) -> WorkflowStep:
        return next(step for step in steps_of(self.workflow) if step.name == "train")

    @property
    def launcher(self) -> str:
        """Return the pod of the last attempt."""
        return self.train.attempts[-1].pod

    def log(self, attempt: StepAttempt) -> str:
        return self.pipeline.kubectl("logs", attempt.pod, "-c", "main", check=False)

    def terminate(self) -> None:
        """Terminate the run as KFP does."""
        patch = '{"spec": {"activeDeadlineSeconds": 0}}'
        self.pipeline.kubectl("patch", "workflow", self.name, "--type=merge", "-p", patch)

    def retry(self) -> None:
        """Run the failed step again as KFP's Retry does: its nodes and pods are removed."""
        run, kubectl = self.workflow, self.pipeline.kubectl
        pods = [attempt.pod for attempt in self.train.attempts]
        kubectl("delete", "pods", "--ignore-not-found", *pods)
        nodes = run["status"]["nodes"]
        removed = {
            name for name, node in nodes.items() if re.search(r"\.train(\(\d+\))?\b", node["name"])
        }
        kept = {name: node for name, node in nodes.items() if name not in removed}
        for node in kept.values():
            children = [child for child in node.get("children", ()) if child not in removed]
            node["children"] = children
            if node["phase"] in ("Failed", "Error"):
                node |= {"phase": "Running", "message": "", "finishedAt": None}
        run["status"] |= {"nodes": kept, "phase": "Running", "message": "", "finishedAt": None}
        del run["metadata"]["labels"]["workflows.argoproj.io/completed"]
        kubectl("replace", "-f", "-", stdin=json.dumps(run))

    def _workflow(self) -> dict[str, Any]:
        policy = compiled()["pipeline_spec"]["components"]["comp-exit-handler-1"]["dag"]["tasks"][
            "train"
        ]["retryPolicy"]
        strategy = {  # as KFP's compiler translates it
            "limit": str(policy["maxRetryCount"]),
            "backoff": {
                "duration": policy["backoffDuration"].removesuffix("s"),
                "factor": str(int(policy["backoffFactor"])),
                "maxDuration": policy["backoffMaxDuration"].removesuffix("s"),
            },
        }
        train, finish = "retry-system-container-impl", "system-container-impl"
        hook = {"exit": {"template": "exit-hook-root-finish"}}
        return {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"name": self.name},
            "spec": {
                "entrypoint": "entrypoint",
                "serviceAccountName": "pipeline-runner",
                "podMetadata": {"labels": {"pipeline/runid": self.pipeline.run_id}},
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                **({"templateDefaults": self.retries} if self.retries else {}),
                "templates": [
                    _dag("entrypoint", root="root"),
                    _dag("root", hooks=hook, **{"exit-handler-1": "comp-exit-handler-1"}),
                    _dag("comp-exit-handler-1", train="retry-system-container-executor"),
                    _dag("retry-system-container-executor", executor=train),
                    {**self._container(train, "train"), "retryStrategy": strategy},
                    _dag("exit-hook-root-finish", finish="system-container-executor"),
                    _dag("system-container-executor", executor=finish),
                    self._container(finish, "finish"),
                ],
            },
        }

    def _container(self, name: str, task: str) -> dict[str, Any]:
        spec = self.pipeline.pod("", task, {})["spec"]
        [container] = spec["containers"]
        container["env"].append({"name": "UNDER_ARGO", "value": "1"})
        for volume in spec["volumes"]:
            if volume["name"] == "cache":
                volume["emptyDir"] = {"sizeLimit": "4Mi"}
        return {"name": name, "container": container, "volumes": spec["volumes"]}


def _dag(name: str, hooks: dict[str, Any] | None = None, **tasks: str) -> dict[str, Any]:
    listed = [
        {"name": task, "template": template, **({"hooks": hooks} if hooks else {})}
        for task, template in tasks.items()
    ]
    return {"name": name, "dag": {"tasks": listed}}


@pytest.fixture
def runs(prepared: Pipeline, argo: None) -> Callable[[str, Retries], Run]:
    """Return a function that makes a run of a name, in the same namespace as the others."""
    kubectl = prepared.kubectl
    compiled()  # once, and not by several threads
    kubectl.apply(RESULTS)
    kubectl(
        "create", "rolebinding", "executor", "--role=executor",
        f"--serviceaccount={kubectl.namespace}:pipeline-runner",
    )  # fmt: skip

    def make(name: str, retries: Retries) -> Run:
        own = Pipeline(kubectl, prepared.s3, prepared.platform)
        own.known = {**prepared.known, "check-reuse_key": own.run_id}
        settle(own, cpu_per_node=1000)
        return Run(name, own, retries)

    return make


# ------------------------------------------------------------------- the ways to lose a pod


def deleted(run: Run) -> None:
    run.pipeline.kubectl("delete", "pod", run.launcher, "--wait=false")


def evicted_by_the_api(run: Run) -> None:
    """Evict the pod as `kubectl drain` does."""
    kubectl = run.pipeline.kubectl
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": run.launcher, "namespace": kubectl.namespace},
    }
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{run.launcher}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def evicted_by_the_kubelet(run: Run) -> None:
    code = "open('/.cache/large', 'wb').write(bytes(2**23))"
    run.pipeline.kubectl("exec", run.launcher, "-c", "main", "--", "python", "-c", code)


def container_killed(run: Run) -> None:
    statuses = run.pipeline.kubectl.get("pod", run.launcher)["status"]["containerStatuses"]
    [container] = [status for status in statuses if status["name"] == "main"]
    name = container["containerID"].removeprefix("containerd://")
    socket = "/run/rlvr-cluster/containerd.sock"
    subprocess.run(
        ["ctr", "--address", socket, "--namespace", "k8s.io", "tasks", "kill", "-s", "KILL", name],
        check=True,
    )


def process_killed(run: Run) -> None:
    kill = "kill -9 $(cat /tmp/process-group)"
    run.pipeline.kubectl("exec", run.launcher, "-c", "main", "--", "sh", "-c", kill)


Check = Callable[[Run], None]

# ------------------------------------------------------------------- what becomes of its job


def adopted_after(lose: Callable[[Run], None]) -> Check:
    def check(run: Run) -> None:
        run.start()
        job = run.follows()
        lose(run)
        assert run.follows(attempt=2) == job
        assert run.train.state == "RUNNING"

    return check


def left_to_a_retry_after(lose: Callable[[Run], None]) -> Check:
    def check(run: Run) -> None:
        run.start()
        job = run.follows()
        lose(run)
        run.ended()
        outcome = run.outcome()
        assert (outcome["state"], outcome["step"], outcome["deleted"]) == ("FAILED", "train", [])
        assert outcome["exit_code"] in (138, 143), outcome
        assert len(outcome["left"]) == 1
        run.retry()
        assert run.follows() == job

    return check


def terminated(run: Run) -> None:
    run.start()
    run.follows()
    run.terminate()
    run.pipeline.kubectl.wait("the job is gone", lambda: not run.jobs(), 60)
    run.ended()
    assert run.outcome()["state"] == "TERMINATED"


def terminated_while_it_has_no_launcher(run: Run) -> None:
    run.start()
    run.follows()
    deleted(run)
    run.terminate()
    run.ended()
    assert run.jobs() == []


def fails_by_itself(num_attempts: int) -> Check:
    """Return a check of a permanent error, which only a policy that cannot tell repeats."""

    def check(run: Run) -> None:
        open_storage(run.pipeline.folder).delete("launch.json")
        run.start()
        run.ended()
        assert len(run.train.attempts) == num_attempts
        failures = [find_failure(run.log(attempt)) for attempt in run.train.attempts]
        assert [failure.exit_code for failure in failures if failure] == [2] * num_attempts

    return check


EXPECTED: dict[str, tuple[Retries, dict[str, Check]]] = {
    "stock": (
        STOCK,
        {
            "deleted": adopted_after(deleted),
            "evicted-by-the-api": adopted_after(evicted_by_the_api),
            "evicted-by-the-kubelet": left_to_a_retry_after(evicted_by_the_kubelet),
            "container-killed": left_to_a_retry_after(container_killed),
            "process-killed": left_to_a_retry_after(process_killed),
            "terminated": terminated,
            "terminated-without-launcher": terminated_while_it_has_no_launcher,
            "fails": fails_by_itself(num_attempts=1),
        },
    ),
    "none": (
        NONE,
        {
            "deleted": left_to_a_retry_after(deleted),
            "evicted-by-the-kubelet": adopted_after(evicted_by_the_kubelet),
            "container-killed": adopted_after(container_killed),
            "process-killed": adopted_after(process_killed),
            "terminated": terminated,
            "fails": fails_by_itself(num_attempts=3),
        },
    ),
    "ours": (
        OURS,
        {
            "deleted": adopted_after(deleted),
            "evicted-by-the-kubelet": adopted_after(evicted_by_the_kubelet),
            "container-killed": adopted_after(container_killed),
            "process-killed": left_to_a_retry_after(process_killed),
            "fails": fails_by_itself(num_attempts=1),
        },
    ),
}
"""Configuration of Argo → what happens to a launcher → what becomes of its job."""


@pytest.mark.parametrize("configuration", EXPECTED)
def test_a_lost_launcher(configuration: str, runs: Callable[[str, Retries], Run]) -> None:
    retries, checks = EXPECTED[configuration]

    with ThreadPoolExecutor(len(checks)) as pool:  # they mostly wait
        ends = {
            name: pool.submit(check, runs(f"rlvr-{name}", retries))
            for name, check in checks.items()
        }

    failures = {name: end.exception() for name, end in ends.items() if end.exception()}
    assert not failures, "\n".join(f"{name}: {failure}" for name, failure in failures.items())
