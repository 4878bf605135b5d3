"""A fake of `rlvr_trainer.api`: the same functions, files and events, without a model.

FAKE_FAULT names what goes wrong: `PHASE:config` raises ConfigError, `PHASE:bug` a KeyError,
`PHASE:kill` is SIGKILL, `PHASE:slow` takes for ever, `PHASE:hang`
ignores SIGTERM too, `PHASE:disk` is a full disk.
FAKE_STEP_S is how long an optimizer step takes.
"""

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.outcome import compare as compare_samples
from rlvr_trainer.evaluation.outcome import read_samples, write_json, write_samples
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import emit

NUM_ROWS = 40


def prepare(recipe: Recipe, data_dir: Path) -> dict[str, Any]:
    with _phase("prepare") as facts:
        data_dir.mkdir(parents=True)
        manifest = {"counts": {"train": 30, "validation": 4, "test": NUM_ROWS, "quarantined": 0}}
        (data_dir / "manifest.json").write_text(json.dumps(manifest))
        facts["counts"] = manifest["counts"]
    return manifest


def evaluate(
    recipe: Recipe,
    data_dir: Path,
    output_dir: Path,
    *,
    label: Literal["before", "after"],
    adapter_dir: Path | None = None,
) -> dict[str, float]:
    assert (data_dir / "manifest.json").is_file()
    assert (label == "after") == (adapter_dir is not None and (adapter_dir / "weights").is_file())
    phase = "evaluate-base" if label == "before" else "evaluate-trained"
    with _phase(phase) as facts:
        num_correct = 4 if label == "before" else 32
        for done in range(0, NUM_ROWS + 1, 8):
            emit("evaluation", phase=phase, done=done, total=NUM_ROWS, accuracy=num_correct / 40)
        output_dir.mkdir(parents=True, exist_ok=True)
        samples = [
            _sample(label, shots, row, correct=row < num_correct)
            for shots in recipe.evaluated_shots
            for row in range(NUM_ROWS)
        ]
        write_samples(output_dir / "samples.jsonl", samples)
        facts |= {"accuracy": num_correct / NUM_ROWS, "format": 0.5, "flexible": 0.5}
    return {key: facts[key] for key in ("accuracy", "format", "flexible")}


def train(recipe: Recipe, run_dir: Path, data_dir: Path) -> bool:
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    assert (data_dir / "manifest.json").is_file()
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    last = max((int(path.name[5:]) for path in checkpoints.glob("step-*")), default=0)
    max_steps = recipe.training.max_steps or 3
    with _phase("train") as facts:
        for step in range(last + 1, max_steps + 1):
            time.sleep(float(os.environ.get("FAKE_STEP_S", "0")))
            emit("step", step=step, max_steps=max_steps, **_numbers(step))
            print(f"fake step {step}")
            if stopped or step == max_steps:
                (checkpoints / f"step-{step}").mkdir()
                emit("checkpoint", step=step, path=str(checkpoints / f"step-{step}"))
            if stopped and step < max_steps:
                facts["preempted"] = True
                return False
        adapter = run_dir / "adapter"
        adapter.mkdir(exist_ok=True)
        (adapter / "weights").write_text("fake")
        (adapter / "tokenizer.json").write_text("{}")
        (adapter / "adapter_config.json").write_text("{}")
    return True


def compare(
    recipe: Recipe,
    data_dir: Path,
    before_dir: Path,
    after_dir: Path,
    events_file: Path | None,
    output_dir: Path,
) -> dict[str, Any]:
    with _phase("report") as facts:
        assert events_file is None or events_file.is_file()
        before = read_samples(before_dir / "samples.jsonl")
        after = read_samples(after_dir / "samples.jsonl")
        evaluation = compare_samples(before, after, trained_shots=recipe.prompt.num_shots)
        write_json(output_dir / "evaluation.json", evaluation)
        write_samples(output_dir / "samples.jsonl", [*before, *after])
        (output_dir / "report.html").write_text("<!doctype html><title>fake report</title>")
        facts["verdict"] = evaluation["verdict"]
    return evaluation


def adapter_to(run_dir: Path, target: Path) -> None:
    shutil.copytree(run_dir / "adapter", target, dirs_exist_ok=True)


@contextmanager
def _phase(name: str) -> Iterator[dict[str, Any]]:
    facts: dict[str, Any] = {}
    emit("phase", phase=name, state="started")
    try:
        _fault(name)
        yield facts
    except BaseException as error:
        emit("phase", phase=name, state="failed", message=str(error))
        raise
    emit("phase", phase=name, state="finished", **facts)


def _fault(phase: str) -> None:
    where, _, what = os.environ.get("FAKE_FAULT", "").partition(":")
    if where != phase:
        return
    match what:
        case "config":
            raise ConfigError("got 3, which is too few; take 4")
        case "bug":
            raise KeyError("lost")
        case "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "samples.jsonl")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "slow":
            time.sleep(600)
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)


def _numbers(step: int) -> dict[str, float]:
    return {
        "reward": 0.1 * step,
        "rewards/format/mean": 0.05 * step,
        "rewards/correctness/mean": 0.05 * step,
        "completions/mean_length": 30.0,
        "tokens_per_second": 200.0,
        "step_time": 0.1,
    }


def _sample(label: str, shots: int, row: int, *, correct: bool) -> dict[str, Any]:
    return {
        "model": label,
        "shots": shots,
        "id": f"test-{row}",
        "question": f"How many are {row} and 1?",
        "answer": str(row + 1),
        "completion": "#### The final answer is 1",
        "extracted": "1",
        "format": True,
        "correct": correct,
        "flexible": correct,
        "num_tokens": 7,
        "sample": 0,
        "greedy": True,
    }
