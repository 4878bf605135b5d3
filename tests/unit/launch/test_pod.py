"""Run launches as real processes, with other commands in place of torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.launch.cgroup import memory_limit_gib, num_oom_kills
from rlvr_trainer.launch.exit_causes import End
from rlvr_trainer.launch.pod import TERMINATION_LOG_BYTES, termination_message
from rlvr_trainer.recipe.reader import load_recipe

WAITS = "import time; print('ready', flush=True); time.sleep(60)"
COMMITS = """
import signal, sys, time
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
print('ready', flush=True)
while not stopped: time.sleep(0.01)
time.sleep(0.3)
sys.exit(143 if len(stopped) == 1 else 99)
"""


def start(run_dir: Path, *command: str, patched: str = "", **environ: str) -> subprocess.Popen[str]:
    """Start a launch; `patched` is Python code that its process runs first."""
    main = "import sys; from rlvr_trainer.__main__ import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [
            *(sys.executable, "-c", f"{patched}\n{main}"),
            *("launch", "--run", str(run_dir), *command),
        ],
        env={**os.environ, "RLVR_TERMINATION_LOG": str(run_dir / "termination"), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(
    run_dir: Path, script: str, *options: str, patched: str = "", **environ: str
) -> tuple[int, str]:
    process = start(
        run_dir, *options, "--", sys.executable, "-c", script, patched=patched, **environ
    )
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors


def message(run_dir: Path) -> dict[str, Any]:
    termination: dict[str, Any] = json.loads((run_dir / "termination").read_text())
    return termination


def test_a_successful_command_makes_a_successful_pod(tmp_path: Path) -> None:
    assert launch(tmp_path, "") == (0, "")
    assert message(tmp_path) == {"cause": "finished", "exit_code": 0, "step": 0, "node_rank": 0}


def test_a_failure_is_reported_on_stderr_and_to_kubernetes(tmp_path: Path) -> None:
    code, errors = launch(tmp_path, "raise SystemExit(3)")
    assert code == 3
    assert errors == f"error: {message(tmp_path)['cause']}\n"


def test_the_committed_step_is_reported(tmp_path: Path) -> None:
    script = (
        "import os, pathlib; p = pathlib.Path(os.environ['RLVR_RUN_DIR'], 'checkpoints/step-7');"
        "p.mkdir(parents=True); (p / 'COMMITTED.json').write_text('{}'); os.kill(os.getpid(), 9)"
    )
    assert launch(tmp_path, script)[0] == 138
    assert message(tmp_path)["step"] == 7
    (attempt,) = json.loads((tmp_path / "attempts.json").read_text())
    assert (attempt["step"], attempt["exit_code"]) == (7, 138)


def test_a_cause_that_a_rank_wrote_is_the_pods_own(tmp_path: Path) -> None:
    script = (
        "from rlvr_trainer.errors import RewardError;"
        "from rlvr_trainer.launch.rank_outcomes import record_error;"
        "record_error(RewardError('it never agrees')); raise SystemExit(1)"
    )
    assert launch(tmp_path, script) == (5, "error: it never agrees\n")


def test_the_budget_of_attempts_ends_the_operators_restarts(tmp_path: Path) -> None:
    script = "import os; os.kill(os.getpid(), 9)"
    assert launch(tmp_path, script, "--max-attempts", "2")[0] == 138
    code, errors = launch(tmp_path, script, "--max-attempts", "2")
    assert code == 9
    assert "2 attempts (--max-attempts 2) failed" in errors


KILLED_WHILE = """
import os
from rlvr_trainer.launch.node_run_dir import SharedFolder
SharedFolder.{} = lambda self: os.kill(os.getpid(), 9)
"""


def test_the_cause_is_reported_before_anything_is_sent(tmp_path: Path) -> None:
    code, errors = launch(tmp_path, "raise SystemExit(3)", patched=KILLED_WHILE.format("stop"))
    assert (code, message(tmp_path)["exit_code"]) == (-9, 3)
    assert errors == f"error: {message(tmp_path)['cause']}\n"


def test_the_logs_are_sent_when_all_else_is_done(tmp_path: Path) -> None:
    assert launch(tmp_path, "", patched=KILLED_WHILE.format("send_logs"))[0] == -9
    assert message(tmp_path)["cause"] == "finished"
    (attempt,) = json.loads((tmp_path / "attempts.json").read_text())
    assert attempt["exit_code"] == 0


def test_a_success_is_not_reported_before_its_metrics_are_sent(tmp_path: Path) -> None:
    assert launch(tmp_path, "", patched=KILLED_WHILE.format("stop"))[0] == -9
    assert not (tmp_path / "termination").exists()


AWAY = """
import errno, os
from rlvr_trainer.launch import pod
listed = pod.remote_checkpoint.committed_step
steps = iter({})
def committed_step(storage):
    if next(steps):
        return listed(storage)
    raise OSError(errno.{}, os.strerror(errno.{}))
pod.remote_checkpoint.committed_step = committed_step
"""


def away(name: str, answers: list[bool]) -> str:
    return AWAY.format(answers, name, name)


def test_a_temporarily_unavailable_run_directory_is_retryable(tmp_path: Path) -> None:
    code, errors = launch(tmp_path, "", patched=away("ESTALE", [False]))
    assert code == message(tmp_path)["exit_code"] == 138
    assert "Stale file handle" in errors
    assert "Traceback" not in errors


def test_other_disk_errors_are_permanent(tmp_path: Path) -> None:
    code, errors = launch(tmp_path, "", patched=away("EISDIR", [False]))
    assert code == message(tmp_path)["exit_code"] == 1
    assert "Traceback" in errors


def test_a_run_directory_that_is_unavailable_at_the_end_keeps_the_termination(
    tmp_path: Path,
) -> None:
    code, errors = launch(tmp_path, "", patched=away("ESTALE", [True, False]))
    assert (code, message(tmp_path)["cause"]) == (0, "finished")
    assert "the attempt is not recorded" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_forwarded_once_and_the_command_awaited(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, "--", sys.executable, "-c", COMMITS)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert message(tmp_path)["exit_code"] == 143


def test_a_command_that_dies_of_the_signal_is_preempted(tmp_path: Path) -> None:
    process = start(tmp_path, "--", sys.executable, "-c", WAITS)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_nothing_that_the_command_started_is_left(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; "
        "time.sleep(60)'], start_new_session=True); print(p.pid, flush=True)"
    )
    process = start(tmp_path, "--", sys.executable, "-c", script)
    pid = int(process.communicate(timeout=30)[0])
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


TWO_NODES = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "1",
    "MASTER_ADDR": "master-0.invalid",
}


def test_a_master_without_a_dns_name_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    code, errors = launch(tmp_path, "", "--master-timeout-s", "0.5", **TWO_NODES)
    assert code == 138
    assert "'master-0.invalid' did not resolve within 0.5 s" in errors
    assert message(tmp_path)["node_rank"] == 1


def test_a_signal_ends_the_wait_for_the_master(tmp_path: Path) -> None:
    process = start(tmp_path, "--", sys.executable, "-c", "", **TWO_NODES)
    while not (tmp_path / "attempts-node-1.json").exists():
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_folder_without_a_recipe_cannot_be_trained(tmp_path: Path) -> None:
    process = start(tmp_path)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 2
    assert "is not a run directory (no recipe.json)" in errors


def test_a_missing_command_is_a_configuration_error(tmp_path: Path) -> None:
    process = start(tmp_path, "--", str(tmp_path / "absent"))
    assert "absent cannot be run" in process.communicate(timeout=30)[1]
    assert process.returncode == 2


def test_launch_does_not_import_torch() -> None:
    script = (
        "import sys, rlvr_trainer.__main__; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'kubernetes', 'kfp', 'boto3')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("cause", ["x" * 9000, '"\\\n' * 3000, "\U0001f4a5" * 3000])
def test_a_long_cause_is_cut_to_what_kubernetes_keeps(cause: str) -> None:
    encoded = termination_message(End(138, cause), step=3, node_rank=1)
    assert len(encoded) <= TERMINATION_LOG_BYTES
    termination = json.loads(encoded)
    assert termination["exit_code"] == 138
    assert cause.startswith(termination["cause"].removesuffix("…"))
    assert len(termination["cause"]) > 300


def test_both_versions_of_cgroups_tell_of_memory(tmp_path: Path) -> None:
    second, first = tmp_path / "v2", tmp_path / "v1"
    second.mkdir()
    (second / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 5\n")
    (second / "memory.max").write_text("2147483648\n")
    (first / "memory").mkdir(parents=True)
    (first / "memory" / "memory.oom_control").write_text("oom_kill_disable 0\noom_kill 3\n")
    (first / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert (num_oom_kills(second), memory_limit_gib(second)) == (1, 2.0)
    assert (num_oom_kills(first), memory_limit_gib(first)) == (3, None)
    assert (num_oom_kills(tmp_path), memory_limit_gib(tmp_path)) == (0, None)


STUB_TORCHRUN = """
import sys
from rlvr_trainer.launch import pod
pod._TORCHRUN = [sys.executable, "-c", {!r}]
"""
"""Take a script for the training; a stub, since torchrun takes seconds to start."""


def train(run_dir: Path, script: str, **environ: str) -> tuple[int, str]:
    (run_dir / "recipe.json").write_text(load_recipe("arithmetic").model_dump_json())
    process = start(run_dir, patched=STUB_TORCHRUN.format(script), **environ)
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors


def test_a_training_stops_by_itself_before_the_maximal_run_time(tmp_path: Path) -> None:
    code, errors = train(tmp_path, WAITS, RLVR_MAX_RUNTIME_S="4")
    assert code == 143
    assert "stopped by the maximal run time of 4 s" in errors


def test_a_command_may_use_the_whole_run_time(tmp_path: Path) -> None:
    script = "import time; time.sleep(1)"
    assert launch(tmp_path, script, RLVR_MAX_RUNTIME_S="1") == (0, "")


def sagemaker(root: Path, content: str) -> dict[str, str]:
    config = root / "input" / "config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text(content)
    return {"RLVR_SAGEMAKER_ROOT": str(root)}


ONE_HOST = json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]})
TRAINS = (
    "import pathlib, sys; adapter = pathlib.Path(sys.argv[-1], 'adapter'); adapter.mkdir();"
    "(adapter / 'adapter_model.safetensors').write_text('learnt')"
)


def test_a_training_job_of_sagemaker_gets_the_adapter(tmp_path: Path) -> None:
    code, log = train(tmp_path, TRAINS, **sagemaker(tmp_path / "ml", ONE_HOST))
    assert code == 0
    assert "SageMaker host algo-1 (rank 0 of 1)" in log
    assert (tmp_path / "ml" / "model" / "adapter_model.safetensors").read_text() == "learnt"
    assert not (tmp_path / "ml" / "output").exists()


def test_a_training_job_of_sagemaker_gets_the_cause(tmp_path: Path) -> None:
    script = (
        "from rlvr_trainer.errors import RewardError;"
        "from rlvr_trainer.launch.rank_outcomes import record_error;"
        "record_error(RewardError('it never agrees')); raise SystemExit(1)"
    )
    assert launch(tmp_path, script, **sagemaker(tmp_path / "ml", ONE_HOST))[0] == 5
    failure = (tmp_path / "ml" / "output" / "failure").read_text()
    assert failure == "[5] step 0: it never agrees"


def test_damaged_files_of_sagemaker_are_a_configuration_error(tmp_path: Path) -> None:
    code, errors = launch(tmp_path, "", **sagemaker(tmp_path / "ml", "{"))
    assert code == 2
    assert "resourceconfig.json cannot be read" in errors
