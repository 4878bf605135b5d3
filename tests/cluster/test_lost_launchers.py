"""Lose the pod of a step that follows a job, under Argo's real controller and executor.

The Workflow has the shape that KFP 2.17 compiles of our pipeline, with the steps `train` and
`finish` alone and without drivers; `step_container.py` plays KFP's launcher. The job is one that
no node has room for, so that nothing trains.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from rlvr_components.workflow import StepAttempt, WorkflowStep, find_failure, steps_of
from rlvr_trainer.storage import open_storage

from .conftest import HERE, Cluster
from .test_kubeflow_steps import Pipeline, compiled, pipeline, prepared, settle

__all__ = ["pipeline", "prepared"]

pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

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
"""What KFP grants its service account for Argo's executor."""


@pytest.fixture(scope="module")
def argo(cluster: Cluster) -> None:
    """Start Argo's controller; it stays as long as the cluster."""
    subprocess.run([HERE / "argo.sh"], check=True, stdin=subprocess.DEVNULL)


@dataclass
class Run:
    """A run as a Workflow."""

    pipeline: Pipeline
    name: str = "rlvr-arithmetic-x7k2p"

    def start(self, retries: Retries) -> None:
        """Create the Workflow; return once its launcher follows a job."""
        kubectl = self.pipeline.kubectl
        kubectl.apply(RESULTS)
        kubectl(
            "create", "rolebinding", "executor", "--role=executor",
            f"--serviceaccount={kubectl.namespace}:pipeline-runner",
        )  # fmt: skip
        kubectl.apply(self._workflow(retries))

    def follows(self, attempt: int = 1) -> str:
        """Wait until that attempt of the launcher follows its job; return the job's uid."""

        def is_followed() -> bool:
            attempts = self.train.attempts
            return len(attempts) >= attempt and "pending: " in self.log(attempts[attempt - 1])

        self.pipeline.kubectl.wait(f"attempt {attempt} follows the job", is_followed, 120)
        [job] = self.pipeline.jobs()
        return str(job["metadata"]["uid"])

    def ended(self) -> str:
        """Wait until the Workflow, with its last step, has ended; return its phase."""

        def phase() -> str:
            return str((self.workflow.get("status") or {}).get("phase"))

        self.pipeline.kubectl.wait("the run has ended", lambda: phase() in ("Failed", "Error"), 150)
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
        """Run the failed steps again, with the function of Argo from which KFP's Retry is made."""
        subprocess.run(
            ["argo", "retry", self.name, "--namespace", self.pipeline.kubectl.namespace],
            check=True,
        )

    def _workflow(self, retries: Retries) -> dict[str, Any]:
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
                **({"templateDefaults": retries} if retries else {}),
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
def run(prepared: Pipeline, argo: None) -> Run:
    settle(prepared, cpu_per_node=1000)
    return Run(prepared)


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


Loss = Callable[[Run], None]


@pytest.mark.parametrize(
    ("retries", "lose"),
    [
        (STOCK, deleted),
        (STOCK, evicted_by_the_api),
        (NONE, evicted_by_the_kubelet),
        (NONE, container_killed),
        (NONE, process_killed),
        (OURS, deleted),
        (OURS, evicted_by_the_kubelet),
        (OURS, container_killed),
    ],
)
def test_the_next_attempt_adopts_the_job(run: Run, retries: Retries, lose: Loss) -> None:
    run.start(retries)
    job = run.follows()

    lose(run)

    assert run.follows(attempt=2) == job
    assert run.train.state == "RUNNING"


@pytest.mark.parametrize(
    ("retries", "lose"),
    [
        (STOCK, evicted_by_the_kubelet),
        (STOCK, container_killed),
        (STOCK, process_killed),
        (NONE, deleted),
        (OURS, process_killed),
    ],
)
def test_the_run_fails_and_its_retry_adopts_the_job(run: Run, retries: Retries, lose: Loss) -> None:
    run.start(retries)
    job = run.follows()

    lose(run)

    assert run.ended() in ("Failed", "Error")
    outcome = run.outcome()
    assert (outcome["state"], outcome["step"], outcome["deleted"]) == ("FAILED", "train", [])
    assert outcome["exit_code"] in (138, 143)
    assert len(outcome["left"]) == 1
    run.retry()
    assert run.follows(attempt=1) == job


@pytest.mark.parametrize("retries", [STOCK, NONE])
def test_a_terminated_run_leaves_nothing(run: Run, retries: Retries) -> None:
    run.start(retries)
    run.follows()

    run.terminate()

    run.pipeline.kubectl.wait("the job is gone", lambda: not run.pipeline.jobs(), 40)
    run.ended()
    assert run.outcome()["state"] == "TERMINATED"


def test_a_run_that_is_terminated_while_it_has_no_launcher_leaves_nothing(run: Run) -> None:
    run.start(STOCK)
    run.follows()
    deleted(run)
    run.terminate()

    run.ended()

    assert run.pipeline.jobs() == []


@pytest.mark.parametrize(
    ("retries", "num_attempts"), [(STOCK, 1), (OURS, 1), (NONE, 3)], ids=["stock", "ours", "none"]
)
def test_a_permanent_error_is_repeated_only_by_a_policy_that_cannot_tell(
    run: Run, retries: Retries, num_attempts: int
) -> None:
    open_storage(run.pipeline.folder).delete("launch.json")
    run.start(retries)

    run.ended()

    assert len(run.train.attempts) == num_attempts
    failures = [find_failure(run.log(attempt)) for attempt in run.train.attempts]
    assert [failure.exit_code for failure in failures if failure] == [2] * num_attempts
    assert run.train.seconds is not None
    assert run.train.seconds < 60 * num_attempts
