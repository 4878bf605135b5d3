"""Run `rlvr run` as a process without kfp installed, with a fake of the trainer's steps."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAKE_TRAINER = ROOT / "tests" / "fake_trainer"
TINY = ROOT / "tests" / "tiny.yaml"
PACKAGES = [ROOT / "trainer", ROOT / "components", ROOT / "pipelines"]
MAX_STEPS = 4
WAIT_S = 240  # a busy machine is slow


class Runs:
    """Runs `rlvr run` repeatedly in one run directory."""

    def __init__(self, path: Path, working_dir: Path) -> None:
        self.path = path
        self.working_dir = working_dir
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [
                sys.executable, "-P", "-c", "from rlvr_pipelines.cli import main; main()",
                "run", str(TINY), "--set", f"training.max_steps={MAX_STEPS}",
                "--run-dir", str(self.path), *arguments,
            ],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, [FAKE_TRAINER, *PACKAGES])),
                "FAKE_WITHOUT": "kfp",
                **environment,
            },
            cwd=self.working_dir,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Return (exit code, standard output, standard error)."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=WAIT_S)
        return process.returncode, out, err

    def events(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return list(_parse(path.read_text().splitlines())) if path.exists() else []

    def states(self) -> list[str]:
        return [f"{e['phase']} {e['state']}" for e in self.events() if e["event"] == "phase"]

    def wait_for_step(self, step: int) -> None:
        wait_until(lambda: any(event.get("step") == step for event in self.events()))

    def processes(self) -> list[str]:
        """Return the command lines of live processes that use this run directory."""
        commands = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    status = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    environment = (entry / "environ").read_text(errors="replace")
                    command = (entry / "cmdline").read_text(errors="replace")
                except OSError:
                    continue
                if status not in "ZX" and f"{self.path}/metrics.jsonl" in environment:
                    commands.append(command.replace("\0", " "))
        return commands


def _parse(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(ValueError):
            yield json.loads(line)


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path / "my runs" / "2026-11-28T09:30:00", tmp_path / "here")
    folder = runs.working_dir / "yaml"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('this folder is not a package')")
    yield runs
    for process in runs.started:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_run_gives_all_artifacts_and_is_not_run_again_once_it_is_finished(runs: Runs) -> None:
    code, out, err = runs.run()

    assert code == 0, err
    assert runs.states() == [
        f"{phase} {state}"
        for phase in ("prepare", "evaluate-base", "train", "evaluate-trained", "report")
        for state in ("started", "finished")
    ]
    assert {path.name for path in runs.path.iterdir()} == {
        ".lock", "adapter", "checkpoints", "data", "evaluation.json", "logs", "metrics.jsonl",
        "recipe.json", "report.html", "samples.jsonl",
    }  # fmt: skip
    models = [json.loads(line)["model"] for line in (runs.path / "samples.jsonl").open()]
    assert models == ["before"] * 40 + ["after"] * 40
    assert "10.0 % (4.0–23.1)" in out
    assert "80.0 % (65.2–89.5)" in out
    assert "Accuracy rose from 10.0 % to 80.0 %" in out
    assert out.rstrip().endswith(f"Report: {runs.path / 'report.html'}")
    assert f"step {MAX_STEPS}/{MAX_STEPS}  reward 0.40" in err

    events = runs.events()
    code, out, err = runs.run("--output", "json")

    assert code == 0
    assert runs.events() == events
    assert "is finished" in err
    facts = json.loads(out)
    assert facts["evaluation"]["shots"]["2"]["after"]["accuracy"] == 0.8
    assert Path(facts["report"]).is_file()


def test_a_failed_step_gives_its_message_and_its_exit_code(runs: Runs) -> None:
    code, out, err = runs.run(FAKE_FAULT="evaluate-base:config")

    assert code == 2
    assert out == ""
    assert "error: Evaluate base model failed: got 3, which is too few; take 4\n" in err
    assert f"The whole log: {runs.path / 'logs' / 'pipeline.log'}" in err
    assert not (runs.path / "evaluation.json").exists()
    assert runs.processes() == []


def test_a_killed_step_is_distinguished_from_a_failed_one(runs: Runs) -> None:
    code, _, err = runs.run(FAKE_FAULT="evaluate-base:kill")

    assert code == 138
    assert "Evaluate base model terminated without an error" in err


def test_ctrl_c_commits_leaves_nothing_running_and_says_how_to_resume(runs: Runs) -> None:
    process = runs.start(FAKE_STEP_S="0.5")
    runs.wait_for_step(1)
    assert runs.processes() != []

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_S)

    assert process.returncode == 130
    assert runs.processes() == []
    assert "Stopping: training commits a checkpoint at the end of its step" in err
    assert f"rlvr run {TINY} --set training.max_steps={MAX_STEPS} --run-dir " in err
    assert [path.name for path in (runs.path / "checkpoints").iterdir()] == ["step-2"]

    # The same command resumes: finished steps are reused, training continues from its checkpoint,
    # and a partial line of events is ignored.
    with (runs.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')
    code, _, err = runs.run(FAKE_FAULT="evaluate-trained:bug")

    assert runs.states()[-6:] == [
        "prepare reused", "evaluate-base reused", "train started", "train finished",
        "evaluate-trained started", "evaluate-trained failed",
    ]  # fmt: skip
    assert [event["step"] for event in runs.events() if event["event"] == "step"] == [1, 2, 3, 4]
    assert code == 1
    assert "Evaluate trained model failed: unexpected KeyError: 'lost'" in err
    assert "| KeyError: 'lost'" in err

    # A finished training is not repeated.
    code, _, err = runs.run()

    assert code == 0, err
    assert runs.states()[-7:] == [
        "prepare reused", "evaluate-base reused", "train reused",
        "evaluate-trained started", "evaluate-trained finished",
        "report started", "report finished",
    ]  # fmt: skip


def test_sigterm_stops_any_step_and_ends_with_its_own_code(runs: Runs) -> None:
    process = runs.start(FAKE_FAULT="evaluate-base:slow")
    wait_until(lambda: "evaluate-base started" in runs.states())

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT_S)

    assert process.returncode == 143
    assert runs.processes() == []


def test_a_second_signal_kills_what_does_not_stop(runs: Runs) -> None:
    process = runs.start(FAKE_FAULT="evaluate-base:hang")
    wait_until(lambda: "evaluate-base started" in runs.states())

    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_S)

    assert process.returncode == 130
    assert runs.processes() == []


def test_nothing_outlives_a_run_that_is_killed(runs: Runs) -> None:
    process = runs.start(FAKE_STEP_S="0.3")
    runs.wait_for_step(1)

    process.kill()
    process.wait()

    wait_until(lambda: runs.processes() == [])


def test_events_of_a_killed_attempt_are_not_taken_for_those_of_the_next(runs: Runs) -> None:
    process = runs.start(FAKE_FAULT="evaluate-base:slow")
    wait_until(lambda: "evaluate-base started" in runs.states())
    process.kill()
    process.wait()
    wait_until(lambda: runs.processes() == [])

    process = runs.start(FAKE_FAULT="evaluate-base:slow")
    wait_until(lambda: runs.states()[-2:] == ["prepare reused", "evaluate-base started"])
    with (runs.path / "metrics.jsonl").open("a") as file:  # an orphan's late event
        for fields in (
            {"event": "step", "step": 3, "max_steps": 4},
            {"event": "phase", "phase": "train", "state": "finished"},
            {"event": "evaluation", "phase": "evaluate-base", "done": 8, "total": 40},
        ):
            file.write(json.dumps({"time": time.time(), **fields}) + "\n")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_S)

    assert [line[10:] for line in err.splitlines() if line[2:3] == ":"] == [
        "Prepare data            reused from the earlier attempt",
        "Evaluate base model     started",
        "Evaluate base model     8/40 rows",
    ]


def test_a_step_runs_again_once_a_file_that_the_recipe_names_has_changed(runs: Runs) -> None:
    runs.working_dir.joinpath("task.py").write_text(
        "from rlvr_trainer.tasks.arithmetic import Arithmetic as Mine\n"
    )
    task = ("--set", f"task={runs.working_dir}/task.py:Mine")
    code, _, err = runs.run(*task, FAKE_FAULT="train:config")
    assert (code, runs.states()[-1]) == (2, "train failed"), err

    code, _, _ = runs.run(*task, FAKE_FAULT="train:config")
    assert runs.states()[-4:] == [
        "prepare reused", "evaluate-base reused", "train started", "train failed",
    ]  # fmt: skip

    runs.working_dir.joinpath("task.py").write_text(
        "from rlvr_trainer.tasks.arithmetic import Arithmetic\n\nMine = Arithmetic\n"
    )
    code, _, _ = runs.run(*task, FAKE_FAULT="evaluate-base:config")
    assert runs.states()[-4:] == [
        "prepare started", "prepare finished", "evaluate-base started", "evaluate-base failed",
    ]  # fmt: skip


def test_two_runs_do_not_share_a_run_directory(runs: Runs) -> None:
    process = runs.start(FAKE_FAULT="prepare:hang")
    wait_until(lambda: runs.states() == ["prepare started"])

    code, _, err = runs.run()

    assert code == 2
    assert f"is in use by another run (process {process.pid})" in err
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.wait(WAIT_S)
