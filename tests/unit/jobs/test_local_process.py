import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest

from rlvr_components.jobs import JobSpec, allowed_environment, training_job
from rlvr_components.jobs.launching import launch
from rlvr_components.jobs.local_process import LocalBackend, LocalProcess, status_from
from rlvr_trainer.errors import JobFailed, PlatformError
from rlvr_trainer.recipe.reader import parse_recipe

RECIPE = parse_recipe({"name": "tiny", "model": {"name": "embedded:smollm2-135m-instruct"}})


def job(script: str, **env: str) -> JobSpec:
    return JobSpec("tiny", "0123456789ab", ("python", "-c", script), "/run", env=env)


def test_a_training_job_trains_in_its_run_directory() -> None:
    spec = training_job(RECIPE, Path("/runs/tiny"), {})

    assert spec.command == ("python", "-m", "rlvr_trainer", "train", "--run", "/runs/tiny")
    assert spec.env == {"RLVR_EVENTS": "/runs/tiny/metrics.jsonl"}
    assert re.fullmatch(r"rlvr-tiny-train-[0-9a-f]{8}-1", spec.name)


def test_a_training_job_on_several_gpus_starts_a_process_for_each() -> None:
    spec = training_job(RECIPE, Path("/runs/tiny"), {}, num_gpus=4)

    assert spec.command == ("python", "-m", "rlvr_trainer", "launch", "--run", "/runs/tiny")
    assert spec.resources.gpus_per_node == 4


def test_a_job_takes_over_what_is_allowed_and_no_credential() -> None:
    around = {
        "HF_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HOME": "/home/me",
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "2",
        "RLVR_FAILURE": "/here/only",
    }

    env = training_job(RECIPE, Path("/runs/tiny"), around).env

    assert env == {
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "2",
        "RLVR_EVENTS": "/runs/tiny/metrics.jsonl",
    }


@pytest.mark.parametrize(
    "name",
    ["CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_VERSION", "NCCL_SOCKET_IFNAME", "NCCL_TOPO_FILE",
     "TORCH_HOME", "TORCH_EXTENSIONS_DIR"],
)  # fmt: skip
def test_variables_of_this_machine_are_not_passed_on(name: str) -> None:
    assert allowed_environment({name: "0", "NCCL_DEBUG": "INFO"}) == {"NCCL_DEBUG": "INFO"}


def test_a_local_job_is_rendered_without_touching_anything() -> None:
    rendered = LocalBackend().render(job("print(1)", NCCL_DEBUG="INFO"))

    assert rendered == LocalProcess((sys.executable, "-c", "print(1)"), {"NCCL_DEBUG": "INFO"})


def test_a_local_job_gives_its_lines_and_succeeds(capfd: pytest.CaptureFixture[str]) -> None:
    script = "import os, sys; print(os.environ['NCCL_DEBUG']); print('two', file=sys.stderr)"

    launch(LocalBackend(), job(script, NCCL_DEBUG="INFO"))

    assert capfd.readouterr().out.splitlines() == ["INFO", "two"]


def test_a_local_job_stays_in_the_process_group() -> None:
    backend = LocalBackend()
    started = backend.submit(backend.render(job("import os; print(os.getpgrp())")))

    assert list(backend.logs(started)) == [str(os.getpgrp())]


def test_a_failed_job_raises_its_own_message_and_code() -> None:
    script = "import sys; sys.exit(print('error: no rows\\n  data.train: empty\\nbye') or 3)"

    with pytest.raises(JobFailed, match=r"^no rows\n  data\.train: empty$") as caught:
        launch(LocalBackend(), job(script))

    assert caught.value.exit_code == 3


def test_a_job_that_crashes_gives_what_it_raised() -> None:
    with pytest.raises(JobFailed, match=r"^unexpected ZeroDivisionError: division by zero$"):
        launch(LocalBackend(), job("1 / 0"))


def test_sigterm_is_forwarded_and_the_job_awaited() -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)\n"
    )

    class Announced(LocalBackend):
        def logs(self, job: str):  # type: ignore[no-untyped-def]
            for line in super().logs(job):
                os.kill(os.getpid(), signal.SIGTERM)
                yield line

    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with pytest.raises(JobFailed, match="committed a checkpoint") as caught:
        launch(Announced(), job(script))

    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert threading.active_count() == threads


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(PlatformError, match="/no/such cannot be started"):
        LocalBackend().submit(LocalProcess(("/no/such",), {}))


@pytest.mark.parametrize(
    ("returncode", "phase", "exit_code", "cause"),
    [
        (None, "running", None, ""),
        (0, "succeeded", 0, ""),
        (2, "failed", 2, "exit code 2 and no message"),
        (143, "failed", 143, "committed a checkpoint"),
        (-signal.SIGTERM, "failed", 138, "before it could commit"),
        (-signal.SIGKILL, "failed", 138, "memory"),
        (-signal.SIGSEGV, "failed", 1, "crashed with SIGSEGV"),
    ],
)
def test_a_return_code_becomes_a_status(
    returncode: int | None, phase: str, exit_code: int | None, cause: str
) -> None:
    status = status_from(returncode, [])

    assert (status.phase, status.exit_code) == (phase, exit_code)
    assert cause in status.cause
