"""Run the steps on this machine, in order: `python -m rlvr_pipelines.local.child DIR ARGUMENTS`.

The process leads a process group. Its standard input is the lifeline: when it closes, the process
that started the run has terminated, and the group is stopped.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rlvr_components.jobs import training_job
from rlvr_components.jobs.launching import launch
from rlvr_components.jobs.local_process import LocalBackend
from rlvr_components.preflight.form import Form
from rlvr_components.steps import model_steps
from rlvr_components.steps.check_step import Checked, check
from rlvr_components.steps.finish import finish
from rlvr_components.steps.remote_step import EvaluateStep
from rlvr_components.steps.step_process import attempt
from rlvr_trainer import __version__, api
from rlvr_trainer.errors import EXIT_PREEMPTED, JobFailed
from rlvr_trainer.launch.operator_environment import num_gpus
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import emit
from rlvr_trainer.run_dir.layout import RunDir, read_recipe
from rlvr_trainer.storage.atomic_files import write_text

ORPHAN_STOP_S = 120
"""Seconds for the steps to stop after the process that started the run has terminated."""


def main(run_dir: RunDir, arguments: Mapping[str, Any]) -> None:
    """Run the recipe of the run directory; exit with the code of a step that fails."""
    _watch_lifeline()
    recipe, form = read_recipe(run_dir.path), dict(arguments)
    place, storage = form["job_place"], form.pop("storage_uri", "")
    with nullcontext() if place == "local" else _finishing(storage):
        with attempt("check"):
            form["recipe"] = recipe.model_dump(mode="json")
            # within a run directory, the key of its adapter decides if a training is reused
            checked = check(Form(**form), storage_uri=storage, train_reuse=True)
        LocalSteps(run_dir, place, checked).run()
    shutil.rmtree(run_dir.pipeline, ignore_errors=True)


@dataclass(frozen=True)
class LocalSteps:
    """The steps of one run. A step is skipped when its output carries the key of its inputs."""

    run_dir: RunDir
    place: str
    checked: Checked

    def run(self) -> None:
        """Run all steps. Raises SystemExit with the exit code of a step that fails."""
        run_dir, checked = self.run_dir, self.checked
        base, whole = checked.base_recipe, checked.recipe
        data = self._make(
            "prepare", run_dir.data, checked.data_recipe, checked.data_identity, api.prepare
        )
        self._make("evaluate-base", run_dir.before, base, data, self._evaluate_base)
        adapter = self._make("train", run_dir.adapter, whole, data, self._train)
        self._make("evaluate-trained", run_dir.after, whole, adapter, self._evaluate_trained)
        with attempt("report"):
            self._compare()

    def _make(
        self,
        phase: str,
        target: Path,
        recipe: Recipe,
        inputs: str,
        make: Callable[[Recipe, Path], object],
    ) -> str:
        """Make a step's output, unless `target` carries the key of its recipe and inputs.

        `make` writes into an empty folder, which becomes `target`. Return the key with the time at
        which the output was made: later steps have it in their keys, so that they run again too.
        """
        with attempt(phase):
            where = (self.place, self.checked.storage, self.checked.job_image)
            content = [__version__, *where, recipe.model_dump_json(), inputs]
            key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
            key_file = self.run_dir.pipeline / f"{phase}.key"
            earlier = key_file.read_text("utf-8") if key_file.is_file() and target.exists() else ""
            if earlier.startswith(key):
                emit("phase", phase=phase, state="reused")
                return earlier
            key_file.unlink(missing_ok=True)
            aside = self.run_dir.pipeline / f"{phase}.tmp"
            shutil.rmtree(aside, ignore_errors=True)
            make(recipe, aside)
            if aside.exists():
                shutil.rmtree(target, ignore_errors=True)
                aside.rename(target)
            _free_memory()
            stamped = f"{key} {time.time_ns()}"
            write_text(key_file, stamped)
            return stamped

    def _evaluate_base(self, recipe: Recipe, folder: Path) -> None:
        self._evaluate("evaluate-base", recipe, folder, None)

    def _evaluate_trained(self, recipe: Recipe, folder: Path) -> None:
        adapter = SimpleNamespace(path=str(self.run_dir.adapter), uri="")
        self._evaluate("evaluate-trained", recipe, folder, adapter)

    def _evaluate(self, step: EvaluateStep, recipe: Recipe, folder: Path, adapter: Any) -> None:
        data, where = self.run_dir.data, {"place": self.place, "storage": self.checked.storage}
        model_steps.evaluate(step, recipe, data, folder, **where, adapter=adapter)

    def _train(self, recipe: Recipe, folder: Path) -> None:
        gpus, run_dir = num_gpus(), self.run_dir
        if self.place != "local":
            adapter = SimpleNamespace(path=str(folder), uri="", metadata={})
            where = {"place": self.place, "storage": self.checked.storage}
            model_steps.train(recipe, run_dir.data, adapter, run_dir.history, **where)
        elif gpus > 1 or recipe.grpo.get("use_vllm"):
            # a process for each GPU; vLLM keeps its memory for as long as its process lives
            job = training_job(recipe, run_dir.path, os.environ, num_gpus=gpus)
            launch(LocalBackend(), job)
        else:
            finished = api.train(recipe, run_dir.path, run_dir.data)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # training set its own handler
            if not finished:
                raise JobFailed(
                    "a signal stopped the training after a commit", exit_code=EXIT_PREEMPTED
                )

    def _compare(self) -> None:
        """Write the results aside, then move them into place, evaluation.json last."""
        run_dir, aside = self.run_dir, self.run_dir.pipeline / "results"
        events = run_dir.events if self.place == "local" else run_dir.history
        api.compare(self.checked.recipe, run_dir.data, run_dir.before, run_dir.after, events, aside)
        for target in (run_dir.samples, run_dir.report, run_dir.evaluation):
            os.replace(aside / target.name, target)


@contextmanager
def _finishing(storage: str) -> Iterator[None]:
    """Delete the run's live jobs and record its outcome when the body ends, also by an error."""

    def exit_once(number: int, _: object) -> None:
        signal.signal(number, lambda *_: None)  # deleting the jobs is not interrupted
        raise SystemExit(EXIT_PREEMPTED)

    signal.signal(signal.SIGTERM, exit_once)
    state, cause = "FAILED", ""
    try:
        yield
        state = "SUCCEEDED"
    except SystemExit as ended:
        cause = str(ended.__context__ or "")
        raise
    finally:
        with attempt("finish"):
            print(finish(storage, "", state, cause))


def _free_memory() -> None:
    """Free the memory of a finished step: the next one may run in another process."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _watch_lifeline() -> None:
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def wait() -> None:
        while os.read(lifeline, 1):
            pass
        with suppress(OSError):  # the disk may be full
            print("the process that started this run has terminated; stopping", flush=True)
        os.killpg(0, signal.SIGTERM)
        time.sleep(ORPHAN_STOP_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main(RunDir(Path(sys.argv[1])), json.loads(sys.argv[2]))
