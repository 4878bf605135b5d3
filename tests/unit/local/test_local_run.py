import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlvr_pipelines.local.claim import claim
from rlvr_pipelines.local.local_run import inspect_run, is_running, run_log_lines, stop_run
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.run_dir.layout import RunDir

RECIPE = load_recipe(Path(__file__).parents[2] / "tiny.yaml")

HOLD = """
import signal, sys, time
from pathlib import Path
from rlvr_pipelines.local.claim import claim
from rlvr_trainer.recipe.reader import load_recipe
if sys.argv[3] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with claim(Path(sys.argv[1]), load_recipe(sys.argv[2])):
    print("ready", flush=True)
    time.sleep(60)
"""


@contextmanager
def running(path: Path, manners: str = "") -> Iterator[subprocess.Popen[str]]:
    """Claim the run directory in another process, as `rlvr run` does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    tiny = str(Path(__file__).parents[2] / "tiny.yaml")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), tiny, manners],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def ended(path: Path) -> RunDir:
    """Return a run directory without a running process."""
    with claim(path, RECIPE) as claimed:
        return claimed.run_dir


def write_events(run_dir: RunDir, *events: dict[str, Any]) -> None:
    run_dir.events.write_text("".join(json.dumps(event) + "\n" for event in events))


STARTED = {"time": 100, "event": "phase", "phase": "train", "state": "started"}
STEP = {"time": 110, "event": "step", "step": 3, "max_steps": 20, "reward": 0.61}


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_finished_evaluation_succeeded(state: str, tmp_path: Path) -> None:
    run_dir = ended(tmp_path)
    write_events(
        run_dir,
        {"time": 1, "event": "phase", "phase": "prepare", "state": "started"},
        {"time": 2, "event": "phase", "phase": "prepare", "state": "finished"},
        {"time": 3, "event": "phase", "phase": "evaluate-base", "state": "started"},
        {"time": 4, "event": "phase", "phase": "evaluate-base", "state": state},
    )
    assert (inspect_run(tmp_path).phase == "succeeded") == (state == "finished")
    run_dir.pipeline.mkdir()  # now it is a run, in which training would follow
    assert inspect_run(tmp_path).phase == "stopped"


def test_a_running_run_has_a_process_and_progress(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        write_events(RunDir(tmp_path), STARTED, STEP)
        run = inspect_run(tmp_path)

        assert (run.phase, run.process) == ("running", process.pid)
        assert run.name == "tiny"
        assert run.step is run.progress.steps["train"]
        assert "Train                   running   3/20  reward 0.61" in run.lines()


def test_a_run_that_was_killed_is_stopped_and_so_is_its_step(tmp_path: Path) -> None:
    write_events(ended(tmp_path), STARTED, STEP)

    run = inspect_run(tmp_path)

    assert (run.phase, run.process) == ("stopped", None)
    assert run.progress.steps["train"].state == "stopped"


def test_a_failed_run_has_its_cause(tmp_path: Path) -> None:
    run_dir = ended(tmp_path)
    cause = {"event": "failure", "phase": "train", "message": "the loss is not finite"}
    write_events(run_dir, STARTED, {"time": 120, **cause, "exit_code": 6})

    run = inspect_run(tmp_path)

    assert (run.phase, run.cause) == ("failed", "the loss is not finite")
    assert run.facts()["steps"][2]["state"] == "failed"


def test_a_whole_run_succeeded(tmp_path: Path) -> None:
    ended(tmp_path).evaluation.write_text("{}")

    assert inspect_run(tmp_path).phase == "succeeded"


def test_a_folder_that_is_not_a_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        inspect_run(tmp_path)


def test_stop_ends_the_process_and_waits_for_it(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        assert stop_run(tmp_path, wait_s=10)

        assert process.wait() == -signal.SIGTERM
        assert not is_running(RunDir(tmp_path))


def test_stop_reports_a_process_that_does_not_end(tmp_path: Path) -> None:
    with running(tmp_path, "deaf"):
        assert not stop_run(tmp_path, wait_s=0.5)
        assert is_running(RunDir(tmp_path))


def test_stopping_an_idle_run_is_not_an_error(tmp_path: Path) -> None:
    ended(tmp_path)

    assert stop_run(tmp_path, wait_s=0)


def test_a_reused_process_id_is_not_killed(tmp_path: Path) -> None:
    with running(tmp_path, "deaf"), subprocess.Popen(["sleep", "60"]) as bystander:
        (tmp_path / ".lock").write_text(str(bystander.pid))
        try:
            assert not stop_run(tmp_path, wait_s=0.3)
            assert bystander.poll() is None
        finally:
            bystander.kill()


LOG = """a warning
started step prepare
rows
started step train
step 1
"""


def test_the_log_is_given_whole_or_by_step(tmp_path: Path) -> None:
    ended(tmp_path).log.write_text(LOG)

    assert list(run_log_lines(tmp_path)) == LOG.splitlines()
    assert list(run_log_lines(tmp_path, step="train")) == LOG.splitlines()[3:]
    assert list(run_log_lines(tmp_path, step="report")) == []


def test_a_log_that_is_followed_ends_with_the_run(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        log = RunDir(tmp_path).log
        log.write_text("one\ntw")

        def go_on() -> None:
            with log.open("a") as file:
                file.write("o\nthree")
            process.kill()

        lines = run_log_lines(tmp_path, follow=True)
        assert next(lines) == "one"
        threading.Timer(0.3, go_on).start()
        assert list(lines) == ["two", "three"]


def test_a_run_without_a_log_has_not_begun(tmp_path: Path) -> None:
    ended(tmp_path)

    with pytest.raises(ConfigError, match="has the run begun"):
        list(run_log_lines(tmp_path))
