"""Test the launcher's errors, and the objects that it leaves, on a real cluster.

The pods run the real `rlvr_trainer launch` with a few lines of Python in torchrun's place, so that
no fault needs a model.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.jobs import JobSpec, JobSummary, Resources
from rlvr_components.jobs.cluster import find_jobs, open_backend
from rlvr_components.jobs.cluster.job_status import epoch
from rlvr_components.jobs.kinds import ClusterPlace
from rlvr_components.jobs.launching import launch
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError, JobFailed, PlatformError, RLVRError

from .conftest import S3, Cluster, Kubectl

pytestmark = pytest.mark.timeout(180)
full = pytest.mark.full

SECRET = "rlvr-s3"
READY = "print('ready', flush=True); "
WAIT = f"import time; {READY}time.sleep(600)"

MEET = """
import os, pathlib, time, boto3
rank, run = os.environ["RLVR_NODE_RANK"], os.environ["RUN_KEY"]
print("hello from", rank, flush=True)
s3 = boto3.client("s3")
s3.put_object(Bucket="rlvr", Key=f"{run}/met-{rank}", Body=b"")
for _ in range(300):  # a PyTorchJob has succeeded as soon as its master has
    if s3.list_objects_v2(Bucket="rlvr", Prefix=f"{run}/met-")["KeyCount"] == 2:
        break
    time.sleep(0.2)
time.sleep(1)
print("bye from", rank, flush=True)
"""

ONCE = """
import os, sys, time, boto3
run, rank = os.environ["RUN_KEY"], os.environ["RLVR_NODE_RANK"]
s3 = boto3.client("s3")
first = s3.list_objects_v2(Bucket="rlvr", Prefix=f"{run}/tried-{rank}")["KeyCount"] == 0
s3.put_object(Bucket="rlvr", Key=f"{run}/tried-{rank}", Body=b"")
"""
"""Head of a payload that does something at its first attempt only."""


@dataclass(frozen=True)
class Launcher:
    """Launches payloads in its own namespace."""

    kubectl: Kubectl
    s3: S3
    platform: Platform
    place: ClusterPlace = "pytorchjob"

    def spec(self, code: str, num_nodes: int = 1, **env: str) -> JobSpec:
        """Return a job whose nodes run this Python code."""
        key = f"{self.kubectl.namespace}/run"
        run = f"s3://{self.s3.bucket}/{key}"
        command = ("python", "-m", "rlvr_trainer", "launch", "--run", run, "--max-attempts", "3")
        return JobSpec(
            "fault",
            "0123456789ab",
            (*command, "--", "python", "-c", code),
            run,
            env={"RUN_KEY": key, **env},
            resources=Resources(num_nodes),
        )

    def run(self, spec: JobSpec, **settings: Any) -> None:
        """Launch the job in this process and follow it until it ends."""
        launch(open_backend(self.place, self.platform.model_copy(update=settings)), spec)

    def fails(self, spec: JobSpec, **settings: Any) -> RLVRError:
        """Launch the job in this process and return the error that it raises."""
        with pytest.raises((JobFailed, ConfigError, PlatformError)) as caught:
            self.run(spec, **settings)
        return caught.value

    def jobs(self) -> list[JobSummary]:
        """Return all jobs of the namespace."""
        return find_jobs(namespace=self.kubectl.namespace)

    def pods(self) -> dict[str, str]:
        """Return the phases of all pods by name."""
        items = self.kubectl.get("pods")["items"]
        return {pod["metadata"]["name"]: pod["status"].get("phase", "") for pod in items}

    def wait_until_nothing_runs(self) -> None:
        """Wait until no pod holds resources."""
        self.kubectl.wait(
            "nothing is left running",
            lambda: not {"Pending", "Running", "Unknown"} & set(self.pods().values()),
            timeout_s=40,
        )

    def started(self, spec: JobSpec, **settings: Any) -> subprocess.Popen[str]:
        """Start a launcher in its own process."""
        platform = self.platform.model_copy(update=settings)
        return subprocess.Popen(
            [
                *(sys.executable, "-c", LAUNCH),
                *(self.place, platform.model_dump_json(), json.dumps(plain(spec))),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


LAUNCH = """
import json, sys
from rlvr_components.jobs import JobSpec, Resources
from rlvr_components.jobs.cluster import open_backend
from rlvr_components.jobs.launching import launch
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import RLVRError
spec = json.loads(sys.argv[3])
spec = JobSpec(**{**spec, "resources": Resources(**spec["resources"])})
try:
    launch(open_backend(sys.argv[1], Platform.model_validate_json(sys.argv[2])), spec)
except RLVRError as error:
    print("error:", error, flush=True)
    sys.exit(error.exit_code)
"""


def plain(spec: JobSpec) -> dict[str, Any]:
    return {**vars(spec), "env": dict(spec.env), "resources": vars(spec.resources)}


@pytest.fixture
def launcher(
    kubectl: Kubectl,
    s3: S3,
    kube: Path,
    base_manifests: None,
    payload_image: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Launcher:
    for name, value in (s3.environment | {"KUBECONFIG": str(kube)}).items():
        monkeypatch.setenv(name, value)
    kubectl("create", "serviceaccount", "rlvr-trainer")
    platform = Platform(
        image=payload_image,
        namespace=kubectl.namespace,
        memory_gib_per_node=0.25,
        cpu_per_node=0.05,
        shm_gib=0.0625,
        secrets=(SECRET,),
        queue_timeout_s=60,
        run_timeout_s=120,
        start_grace_s=5,
        stop_grace_s=10,
    )
    return Launcher(kubectl, s3, platform)


def after(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Call the function in a thread as soon as the condition holds."""

    def run() -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
        act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def all_run(launcher: Launcher, num_pods: int) -> Callable[[], bool]:
    return lambda: list(launcher.pods().values()).count("Running") == num_pods


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Return the process's lines up to the first that contains the text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} did not come: {''.join(lines)}")


# ------------------------------------------------------------------- core


def test_a_job_of_two_nodes_succeeds_and_both_are_heard(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher.run(launcher.spec(MEET, num_nodes=2))

    lines = capfd.readouterr().out.splitlines()
    for name, rank in (("master-0", 0), ("worker-0", 1)):
        assert lines.count(f"[{name}] hello from {rank}") == 1
    assert lines.count("[master-0] bye from 0") == 1
    [job] = launcher.jobs()
    assert (job.phase, job.attempt, job.run_dir) == ("succeeded", 1, launcher.spec("").run_dir)
    launcher.wait_until_nothing_runs()


def test_an_image_that_does_not_exist(launcher: Launcher) -> None:
    started = time.monotonic()

    error = launcher.fails(launcher.spec(WAIT), image="rlvr-components:no-such")

    assert error.exit_code == 2
    assert "master-0: " in str(error)
    assert "rlvr-components:no-such" in str(error)
    assert "Pull" in str(error)
    assert time.monotonic() - started < 40
    assert launcher.jobs() == []
    launcher.wait_until_nothing_runs()


def test_memory_that_runs_out_twice_says_the_limit(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    eats = "import subprocess; subprocess.run(['python', '-c', 'bytearray(2**30)'], check=True)"

    error = launcher.fails(launcher.spec(eats), memory_gib_per_node=0.125)

    assert error.exit_code == 9
    assert "for the second time" in str(error)
    assert "out of memory" in str(error)
    assert "0.125 GiB" in str(error)
    assert "(exit code 137)" in capfd.readouterr().out, "one retry"
    launcher.wait_until_nothing_runs()


def test_a_request_that_cannot_be_scheduled(launcher: Launcher) -> None:
    error = launcher.fails(launcher.spec(WAIT), cpu_per_node=1000, queue_timeout_s=4)

    assert error.exit_code == 138
    assert "queue_timeout_s (4 s)" in str(error)
    assert "Insufficient cpu" in str(error), "the scheduler's words"
    assert launcher.jobs() == []
    launcher.wait_until_nothing_runs()


def test_a_rank_killed_by_sigkill_is_retried_and_succeeds(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    dies = ONCE + "if first: os.kill(os.getpid(), 9)\nprint('done', flush=True)"

    launcher.run(launcher.spec(dies))

    printed = capfd.readouterr().out
    assert "the process was killed by SIGKILL (exit code 138)" in printed
    assert "[master-0] done" in printed
    [job] = launcher.jobs()
    assert job.phase == "succeeded"
    attempts = launcher.s3.client().get_object(
        Bucket="rlvr", Key=f"{launcher.kubectl.namespace}/run/attempts.json"
    )
    codes = [attempt["exit_code"] for attempt in json.loads(attempts["Body"].read())]
    assert codes == [138, 0]


def test_a_launcher_that_is_killed_leaves_the_job_and_the_next_one_adopts_it(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    waits = (
        "import os, time, boto3; "
        + READY
        + "s3 = boto3.client('s3'); go = os.environ['RUN_KEY'] + '/go'\n"
        "while not s3.list_objects_v2(Bucket='rlvr', Prefix=go)['KeyCount']: time.sleep(0.2)\n"
    )
    spec = launcher.spec(waits)
    first = launcher.started(spec)
    read_until(first, "ready")
    before = launcher.kubectl.get("pytorchjob", spec.name)["metadata"]["uid"]
    first.kill()
    first.communicate()
    assert launcher.kubectl.get("pytorchjob", spec.name)["metadata"]["uid"] == before

    def go() -> None:
        key = f"{launcher.kubectl.namespace}/run/go"
        launcher.s3.client().put_object(Bucket="rlvr", Key=key, Body=b"")

    threading.Timer(2, go).start()
    launcher.run(spec)

    assert launcher.kubectl.get("pytorchjob", spec.name)["metadata"]["uid"] == before
    assert [(job.phase, job.attempt) for job in launcher.jobs()] == [("succeeded", 1)]
    assert "[master-0] ready" in capfd.readouterr().out


def test_sigterm_deletes_the_job_within_a_second(launcher: Launcher) -> None:
    process = launcher.started(launcher.spec(WAIT))
    read_until(process, "ready")
    signalled_at = time.monotonic()

    process.send_signal(signal.SIGTERM)
    launcher.kubectl.wait("the job is gone", lambda: not launcher.jobs(), timeout_s=5)

    assert time.monotonic() - signalled_at < 2
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 143, out
    assert "error: it was stopped" in out
    launcher.wait_until_nothing_runs()


# ------------------------------------------------------------------- full


@full
def test_a_first_process_out_of_memory_says_the_limit(launcher: Launcher) -> None:
    spec = replace(launcher.spec(WAIT), command=("python", "-c", "bytearray(2**30)"))

    error = launcher.fails(spec, memory_gib_per_node=0.125)

    assert error.exit_code == 9
    assert "for the second time master-0: out of memory (OOMKilled)" in str(error)
    assert "limit is 128Mi" in str(error)
    assert launcher.jobs() == []
    launcher.wait_until_nothing_runs()


@full
def test_sigterm_on_one_node_is_retried(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    waits = ONCE + READY + "time.sleep(600 if first else 1)"
    spec = launcher.spec(waits)
    name = f"{spec.name}-master-0"

    def evict() -> None:
        launcher.kubectl(
            "exec", name, "-c", "pytorch", "--", "python", "-c", "import os; os.kill(1, 15)"
        )

    def is_ready() -> bool:
        return "ready" in launcher.kubectl("logs", name, "-c", "pytorch", check=False)

    after(is_ready, evict)
    launcher.run(spec)

    printed = capfd.readouterr().out
    assert "(exit code 143)" in printed
    assert printed.count("[master-0] ready") == 2
    assert [job.phase for job in launcher.jobs()] == ["succeeded"]


@full
def test_a_missing_command_is_not_retried_forever(launcher: Launcher) -> None:
    spec = replace(launcher.spec(WAIT), command=("no-such-program",))

    error = launcher.fails(spec)

    assert error.exit_code == 2
    assert "the container cannot start" in str(error)
    assert "no-such-program" in str(error)
    assert launcher.jobs() == []
    launcher.wait_until_nothing_runs()


@full
def test_an_api_server_that_is_restarted_is_waited_for(
    launcher: Launcher, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    counts = "import time\nfor i in range(120): print('line', i, flush=True); time.sleep(0.15)"

    def restart() -> None:
        cluster.stop("kube-apiserver")
        time.sleep(2)
        cluster.start("kube-apiserver")

    thread = after(all_run(launcher, 1), restart)
    launcher.run(launcher.spec(counts))
    thread.join()

    lines = [
        line for line in capfd.readouterr().out.splitlines() if line.startswith("[master-0] line")
    ]
    assert lines == [f"[master-0] line {i}" for i in range(120)], "no line lost or repeated"
    [job] = launcher.jobs()
    assert (job.phase, job.attempt) == ("succeeded", 1)


@full
def test_a_stop_from_another_process(launcher: Launcher) -> None:
    spec = launcher.spec(WAIT)
    after(
        all_run(launcher, 1), lambda: open_backend("pytorchjob", launcher.platform).stop(spec.name)
    )

    error = launcher.fails(spec)

    assert error.exit_code == 7
    assert "deleted by someone else" in str(error)
    assert launcher.jobs() == []
    launcher.wait_until_nothing_runs()


@full
def test_a_job_deleted_by_hand_and_started_again_is_a_new_one(launcher: Launcher) -> None:
    spec = launcher.spec(WAIT)
    after(
        all_run(launcher, 1),
        lambda: launcher.kubectl("delete", "pytorchjob", spec.name, "--wait=false"),
    )
    assert "deleted by someone else" in str(launcher.fails(spec))
    launcher.wait_until_nothing_runs()

    launcher.run(launcher.spec("print('again')"))

    assert [(job.phase, job.attempt) for job in launcher.jobs()] == [("succeeded", 1)]


@full
def test_a_refusal_by_the_admission_policy_is_reported_at_once(launcher: Launcher) -> None:
    started = time.monotonic()

    error = launcher.fails(launcher.spec(WAIT), service_account="default")

    assert time.monotonic() - started < 5
    assert error.exit_code == 2
    assert "allowed is rlvr-trainer" in str(error)
    assert launcher.pods() == {}


@full
def test_a_refusal_by_pod_security_is_reported_from_the_jobs_events(launcher: Launcher) -> None:
    backend = open_backend("pytorchjob", launcher.platform)
    rendered = backend.render(launcher.spec(WAIT))
    template = rendered["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
    template["spec"]["securityContext"]["runAsNonRoot"] = False

    name = backend.submit(rendered)
    lines = list(backend.logs(name))
    status = backend.status(name)

    assert status.exit_code == 2
    assert "the cluster refuses the job's pods" in status.cause
    assert "violates PodSecurity" in status.cause
    assert any("pending: the cluster refuses" in line for line in lines)
    assert launcher.jobs() == []


@full
def test_a_secret_that_is_missing(launcher: Launcher) -> None:
    error = launcher.fails(launcher.spec(WAIT), secrets=(SECRET, "no-such-secret"))

    assert error.exit_code == 2
    assert "CreateContainerConfigError" in str(error)
    assert 'secret "no-such-secret" not found' in str(error)
    assert launcher.jobs() == []
    launcher.wait_until_nothing_runs()


@full
def test_an_exceeded_quota_is_waited_for_and_reported(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher.kubectl("create", "quota", "none", "--hard=pods=0")
    after(
        lambda: any("quota" in job.cause for job in launcher.jobs()),
        lambda: launcher.kubectl("delete", "quota", "none"),
    )

    launcher.run(launcher.spec("print('there was room')"))

    printed = capfd.readouterr().out
    assert "pending: quota: " in printed
    assert "[master-0] there was room" in printed


@full
def test_a_failed_container_is_reported_within_five_seconds(launcher: Launcher) -> None:
    process = launcher.started(launcher.spec("import sys; sys.exit('no')"))
    read_until(process, "(exit code 1)")
    reported_at = time.time()
    [pod] = launcher.kubectl.get("pods")["items"]
    [status] = pod["status"]["containerStatuses"]
    finished = status["state"]["terminated"]["finishedAt"]
    process.communicate(timeout=30)

    assert reported_at - epoch(finished) < 5 + 1, "one second is the timestamp's resolution"
    assert process.returncode == 1


@full
def test_status_takes_less_than_a_second(launcher: Launcher) -> None:
    launcher.run(launcher.spec("print('short')"))
    started = time.monotonic()

    [job] = launcher.jobs()

    assert time.monotonic() - started < 1
    assert job.phase == "succeeded"
