"""Run real TrainJobs: our TrainingRuntime under Kubeflow Trainer and JobSet."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from dataclasses import replace

import pytest
import yaml

from rlvr_components.jobs.cluster import open_backend

from .conftest import HERE, Cluster
from .test_launcher_faults import MEET, ONCE, READY, WAIT, Launcher, read_until
from .test_launcher_faults import launcher as of_pytorchjobs

__all__ = ["of_pytorchjobs"]

pytestmark = [pytest.mark.full, pytest.mark.timeout(180)]

RUNTIME = HERE.parents[1] / "manifests" / "components" / "trainjob" / "runtime.yaml"


@pytest.fixture(scope="module")
def trainer(cluster: Cluster) -> None:
    """Install Kubeflow Trainer and JobSet; they stay as long as the cluster."""
    subprocess.run([HERE / "trainjobs.sh"], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def launcher(trainer: None, of_pytorchjobs: Launcher) -> Launcher:
    """Return a launcher of TrainJobs, with our runtime in its namespace."""
    kubectl = of_pytorchjobs.kubectl
    kubectl("label", "namespace", kubectl.namespace, "rlvr.dev/trainjobs=run")
    runtime = yaml.safe_load(RUNTIME.read_text("utf-8"))
    runtime["metadata"]["namespace"] = kubectl.namespace
    kubectl.apply(runtime)
    return replace(of_pytorchjobs, place="trainjob")


def test_a_trainjob_of_two_nodes_succeeds_and_both_are_heard(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = launcher.spec(MEET, num_nodes=2)

    launcher.run(spec)

    lines = capfd.readouterr().out.splitlines()
    for rank in (0, 1):
        for word in ("hello", "bye"):
            assert lines.count(f"[node-{rank}] {word} from {rank}") == 1
    [job] = launcher.jobs()
    assert (job.kind, job.phase, job.attempt) == ("TrainJob", "succeeded", 1)
    assert [(replica.name, replica.phase) for replica in job.replicas] == [
        ("node-0", "Succeeded"),
        ("node-1", "Succeeded"),
    ]
    shown = open_backend("trainjob", launcher.platform).logs(spec.name, follow=False)
    assert sorted(line for line in shown if "bye" in line) == [
        "[node-0] bye from 0",
        "[node-1] bye from 1",
    ]
    launcher.wait_until_nothing_runs()


def test_the_failed_node_is_reported_and_the_other_one_stopped(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    fails = (
        "import os, signal, sys, time\n"
        "if os.environ['RLVR_NODE_RANK'] == '1': time.sleep(2); sys.exit('no such question')\n"
        "def commit(*_): time.sleep(18); print('committed', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, commit)\n"
        "time.sleep(600)"
    )

    error = launcher.fails(launcher.spec(fails, num_nodes=2), stop_grace_s=40)

    assert error.exit_code == 1
    assert str(error).startswith("node-1: the process ended with 1 ")
    lines = capfd.readouterr().out.splitlines()
    assert "[node-1] no such question" in lines
    assert "[node-0] committed" in lines
    [job] = launcher.jobs()
    assert (job.phase, job.exit_code, job.cause) == ("failed", 1, str(error))
    launcher.wait_until_nothing_runs()


def test_a_node_killed_by_sigkill_makes_another_trainjob(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    dies = ONCE + (
        "if first and rank == '1': os.kill(os.getpid(), 9)\n"
        "time.sleep(600 if first else 0); print('done', flush=True)"
    )

    launcher.run(launcher.spec(dies, num_nodes=2))

    printed = capfd.readouterr().out
    assert "node-1: the process was killed by SIGKILL (exit code 138)" in printed
    assert "[node-0] done" in printed
    assert "[node-1] done" in printed
    assert [(job.phase, job.attempt) for job in launcher.jobs()] == [
        ("succeeded", 2),
        ("failed", 1),
    ]
    launcher.wait_until_nothing_runs()


def test_sigterm_deletes_the_trainjob_within_a_second(launcher: Launcher) -> None:
    process = launcher.started(launcher.spec(WAIT, num_nodes=2))
    read_until(process, "[node-0] ready")
    signalled_at = time.monotonic()

    process.send_signal(signal.SIGTERM)
    launcher.kubectl.wait("the job is gone", lambda: not launcher.jobs(), timeout_s=5)

    assert time.monotonic() - signalled_at < 2
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143, out
    assert "error: it was stopped" in out
    launcher.wait_until_nothing_runs()


def test_a_launcher_that_is_killed_leaves_the_trainjob_and_the_next_one_adopts_it(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    waits = (
        f"import os, time, boto3; {READY}\n"
        "s3 = boto3.client('s3'); go = os.environ['RUN_KEY'] + '/go'\n"
        "while not s3.list_objects_v2(Bucket='rlvr', Prefix=go)['KeyCount']: time.sleep(0.2)\n"
    )
    spec = launcher.spec(waits, num_nodes=2)
    first = launcher.started(spec)
    read_until(first, "ready")
    before = launcher.kubectl.get("trainjob", spec.name)["metadata"]["uid"]
    first.kill()
    first.communicate()

    def go() -> None:
        key = f"{launcher.kubectl.namespace}/run/go"
        launcher.s3.client().put_object(Bucket=launcher.s3.bucket, Key=key, Body=b"")

    threading.Timer(2, go).start()
    launcher.run(spec)

    assert launcher.kubectl.get("trainjob", spec.name)["metadata"]["uid"] == before
    assert [(job.phase, job.attempt) for job in launcher.jobs()] == [("succeeded", 1)]
    printed = capfd.readouterr().out
    assert "[node-0] ready" in printed
    assert "[node-1] ready" in printed
