"""The process in which kfp.local runs the pipeline: `python -m rlvr_pipelines.local_child RUN_DIR`.

It leads a process group of its own, to which every step belongs. Its standard input is the
lifeline: when that ends, whoever started it is gone, and the group is stopped.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import stat
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path

from rlvr_pipelines.run_dir import RunDir, read_recipe
from rlvr_trainer.events import emit

INPUTS_VARIABLE = "RLVR_INPUTS"
"""Names the state of the files that the recipe names; outputs are reused for the same one only."""

ORPHAN_STOP_S = 120
"""How long steps may take to stop when whoever started the run is gone."""

CACHE_HIT = re.compile(r"Task (\S+) cache hit")


def main(run_dir: RunDir) -> int:
    """Run the pipeline on the run directory's recipe."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # started by hand: the group is to be this run's alone
    _watch_lifeline()
    # Stopping is for the steps: this process stays to read what they still have to say. (A
    # function, since an ignored signal would be ignored by the steps too.)
    signal.signal(signal.SIGTERM, lambda *_: None)
    _name_python(run_dir.pipeline / "bin")

    from kfp import local

    from rlvr_pipelines.pipeline import PHASE_BY_TASK, rlvr_pipeline, task_groups

    logging.getLogger().addHandler(_ReuseEvents(PHASE_BY_TASK))
    logging.getLogger().setLevel(logging.INFO)
    # kfp.local wonders about images without "python" in their name, and ignores display names
    for message in (".*non-Python base image", ".*have no effect in the current local runner"):
        warnings.filterwarnings("ignore", message=message)
    for tasks in task_groups(rlvr_pipeline.pipeline_spec):
        for task in tasks.values():
            task.ClearField("retry_policy")  # of a lost pod; here a person sees the cause at once
        if "train" in tasks:
            # it continues from its own checkpoints
            tasks["train"].caching_options.enable_cache = False
            # kfp.local runs independent tasks one after another, in an order that changes from
            # process to process; a reader wants to know first where the model starts from
            tasks["train"].dependent_tasks.append("evaluate-base")
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(run_dir.pipeline / "root"),
        enable_caching=True,
        cache_root=str(run_dir.pipeline / "cache" / os.environ[INPUTS_VARIABLE]),
    )
    arguments = json.loads(run_dir.arguments.read_text("utf-8"))
    try:
        rlvr_pipeline(recipe=read_recipe(run_dir).model_dump_json(), **arguments)
    except RuntimeError as error:  # kfp's word for a failed step; the step recorded its cause
        print(error, flush=True)
        return 1
    return 0


class _ReuseEvents(logging.Handler):
    """kfp.local tells of a step that it did not have to run by a log line only."""

    def __init__(self, phase_by_task: dict[str, str]) -> None:
        super().__init__()
        self._phase_by_task = phase_by_task

    def emit(self, record: logging.LogRecord) -> None:
        hit = CACHE_HIT.match(record.getMessage())
        if hit and hit[1] in self._phase_by_task:
            emit("phase", phase=self._phase_by_task[hit[1]], state="reused")


def _name_python(folder: Path) -> None:
    """Make `python3` mean this interpreter, and kfp.local call it so.

    kfp.local puts sys.executable for every `python3` in a step's command, unquoted: a path with a
    space breaks the command, and a run directory or recipe with `python3` in it is changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python3"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    sys.executable = "python3"


def _watch_lifeline() -> None:
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        with suppress(OSError):  # of a full disk
            print("the process that started this run is gone; stopping", flush=True)
        for _ in range(ORPHAN_STOP_S):
            os.killpg(os.getpgrp(), signal.SIGTERM)  # again: a step may have begun just then
            time.sleep(1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(RunDir(Path(sys.argv[1]))))
