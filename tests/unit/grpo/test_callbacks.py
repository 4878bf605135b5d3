from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlvr_trainer.errors import Diverged
from rlvr_trainer.grpo.callbacks import StepEvents, StopOnDivergence, StopOnSignal, Validation
from rlvr_trainer.run_dir.events import read_events


@pytest.fixture
def args(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True)


def state(step: int, max_steps: int = 10) -> TrainerState:
    return TrainerState(global_step=step, max_steps=max_steps, is_world_process_zero=True)


def test_each_step_is_an_event_with_trls_numbers(
    args: TrainingArguments, events_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = StepEvents()
    callback.on_train_begin(args, state(0), TrainerControl())
    logs = {"reward": 1.25, "loss": float("nan"), "num_tokens": 1000.0, "rewards/format/mean": 0.5}
    callback.on_log(args, state(3), TrainerControl(), logs=logs)
    callback.on_log(args, state(3), TrainerControl(), logs={"train_runtime": 3.0})
    (event,) = read_events(events_file)
    assert (event["event"], event["step"], event["max_steps"]) == ("step", 3, 10)
    assert event["reward"] == 1.25
    assert event["rewards/format/mean"] == 0.5
    assert event["loss"] is None  # JSON knows no NaN
    assert event["tokens_per_second"] > 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("step 3/10  reward 1.250  loss nan  ")
    assert "tokens/s" in line


def test_a_step_on_completions_of_an_earlier_one_is_an_event_too(
    args: TrainingArguments, events_file: Path
) -> None:
    """With num_iterations 2, every second step neither generates nor logs rewards."""
    callback = StepEvents()
    callback.on_train_begin(args, state(0), TrainerControl())
    for step, logs in ((1, {"loss": 0.5, "reward": 1.0, "num_tokens": 100.0}), (2, {"loss": 0.4})):
        callback.on_log(args, state(step), TrainerControl(), logs=logs)
    first, second = read_events(events_file)
    assert (first["step"], second["step"]) == (1, 2)
    assert (second["loss"], second["tokens_per_second"]) == (0.4, 0.0)
    assert "reward" not in second


def test_a_step_that_is_trained_again_after_a_resume_counts_once(
    args: TrainingArguments, events_file: Path
) -> None:
    for step, reward in ((1, 0.1), (2, 0.2), (2, 0.25), (3, 0.3)):
        StepEvents().on_log(args, state(step), TrainerControl(), logs={"reward": reward})
    with events_file.open("a") as file:
        file.write('{"event": "step", "st')  # the process was killed here
    assert [(e["step"], e["reward"]) for e in read_events(events_file)] == [
        (1, 0.1),
        (2, 0.25),
        (3, 0.3),
    ]


def test_three_steps_without_a_finite_loss_end_the_run(args: TrainingArguments) -> None:
    callback, bad = StopOnDivergence(), {"loss": float("nan"), "grad_norm": 1.0}
    for logs in (bad, bad, {"loss": 0.1, "grad_norm": 1.0}, bad, bad):
        callback.on_log(args, state(1), TrainerControl(), logs=logs)
    with pytest.raises(Diverged, match="not finite for 3 steps"):
        callback.on_log(args, state(6), TrainerControl(), logs=bad)


def test_a_signal_saves_and_stops_at_the_end_of_the_step(args: TrainingArguments) -> None:
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    callback, control = StopOnSignal(), TrainerControl()
    try:
        callback.install()
        callback.on_step_end(args, state(4), control)
        assert not control.should_training_stop
        os.kill(os.getpid(), signal.SIGTERM)
        callback.on_step_end(args, state(5), control)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert control.should_save
    assert control.should_training_stop
    assert callback.stopped


def test_a_signal_in_the_last_step_lets_the_run_finish(args: TrainingArguments) -> None:
    callback, control = StopOnSignal(), TrainerControl()
    callback.requested = True
    callback.on_step_end(args, state(10), control)
    assert not callback.stopped


@pytest.mark.parametrize(("every", "steps"), [(4, [4, 8, 10]), (None, [10]), (5, [5, 10])])
def test_validation_runs_every_so_many_steps_and_at_the_end(
    args: TrainingArguments, every: int | None, steps: list[int]
) -> None:
    evaluated: list[int] = []
    callback = Validation(evaluated.append, every)
    for step in range(1, 11):
        callback.on_step_end(args, state(step), TrainerControl())
    assert evaluated == steps
