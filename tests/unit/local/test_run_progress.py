from typing import Any

import pytest

from rlvr_pipelines.local.run_progress import RunProgress, clock, describe_numbers


def phase(name: str, state: str, time: float, **facts: Any) -> dict[str, Any]:
    return {"event": "phase", "phase": name, "state": state, "time": time, **facts}


def optimizer_step(step: int, time: float) -> dict[str, Any]:
    return {"event": "step", "step": step, "max_steps": 10, "time": time, "step_time": 5.0}


def progress_of(*events: dict[str, Any]) -> RunProgress:
    progress = RunProgress()
    for event in events:
        progress.update(event)
    return progress


def test_all_steps_are_pending_at_first() -> None:
    assert [step.state for step in progress_of().steps.values()] == ["pending"] * 5


def test_a_step_runs_and_is_done() -> None:
    running = progress_of(phase("prepare", "started", 100))
    assert running.running is running.steps["prepare"]
    assert running.steps["prepare"].seconds(now=103) == 3

    running.update(phase("prepare", "finished", 104))
    assert running.running is None
    assert running.steps["prepare"].state == "done"
    assert running.steps["prepare"].seconds(now=200) == 4


def test_time_left_is_estimated_from_the_last_steps_without_the_loading_before_them() -> None:
    progress = progress_of(phase("train", "started", 0), optimizer_step(1, 60))
    train = progress.steps["train"]
    assert train.seconds_left(now=60) is None

    progress.update(optimizer_step(2, 65))
    progress.update(optimizer_step(3, 70))

    assert train.seconds_left(now=70) == 35
    assert train.seconds_left(now=72) == 33
    assert progress.step_seconds == 5


def test_time_left_of_a_resumed_training_counts_its_own_steps_only() -> None:
    progress = progress_of(
        phase("train", "started", 0), optimizer_step(8, 60), optimizer_step(9, 66)
    )

    assert progress.steps["train"].seconds_left(now=66) == 6


def test_an_evaluation_advances_by_rows() -> None:
    progress = progress_of(
        phase("evaluate-base", "started", 0),
        {"event": "evaluation", "phase": "evaluate-base", "time": 2, "done": 20, "total": 100},
        {"event": "evaluation", "phase": "evaluate-base", "time": 4, "done": 40, "total": 100},
    )

    step = progress.steps["evaluate-base"]
    assert (step.done, step.total) == (40, 100)
    assert step.seconds_left(now=4) == pytest.approx(6)


def test_a_validation_while_training_does_not_count_as_progress() -> None:
    progress = progress_of(
        phase("train", "started", 0),
        optimizer_step(5, 10),
        {"event": "evaluation", "phase": "train", "step": 5, "time": 12, "done": 64, "total": 64},
    )

    assert (progress.steps["train"].done, progress.steps["train"].total) == (5, 10)


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (phase("train", "finished", 1), "done"),
        (phase("train", "finished", 1, preempted=True), "stopped"),
        (phase("train", "failed", 1), "failed"),
        (phase("train", "reused", 1), "reused"),
    ],
)
def test_how_a_step_ended(event: dict[str, Any], state: str) -> None:
    assert progress_of(phase("train", "started", 0), event).steps["train"].state == state


def test_steps_running_at_the_end_of_the_run_ended_with_it() -> None:
    progress = progress_of(phase("train", "started", 0))
    progress.end(9)

    assert progress.steps["train"].state == "failed"
    assert progress.steps["report"].state == "pending"


@pytest.mark.parametrize(
    "orphan",
    [
        phase("train", "finished", 1_800_000_000),
        phase("train", "failed", 1_800_000_000),
        optimizer_step(5, 1_800_000_000),
        {"event": "checkpoint", "step": 5, "time": 1_800_000_000},
        {"event": "evaluation", "phase": "evaluate-base", "time": 1_800_000_000, "done": 8},
    ],
)
def test_events_of_a_step_that_has_not_started_are_of_an_earlier_attempt(
    orphan: dict[str, Any],
) -> None:
    progress = RunProgress()

    assert not progress.update(orphan)
    assert [step.state for step in progress.steps.values()] == ["pending"] * 5
    assert progress.steps["train"].seconds(now=1_800_000_001) == 0


def test_the_newest_failure_counts_until_a_step_starts_again() -> None:
    cause = {"event": "failure", "phase": "train", "message": "no rewards", "exit_code": 5}
    progress = progress_of(phase("train", "started", 0), phase("train", "failed", 1), cause)
    progress.update({**cause, "phase": "finish", "message": "no cluster"})
    assert progress.failure == cause

    of_the_next_attempt = {**cause, "phase": "check", "message": "rows.jsonl cannot be read"}
    progress.update(of_the_next_attempt)
    assert progress.failure == of_the_next_attempt

    progress.update(phase("prepare", "reused", 2))
    assert progress.failure is None


def test_events_that_are_not_known_are_passed_over() -> None:
    progress = progress_of(
        {"event": "weather", "time": 1},
        phase("lunch", "started", 1),
        phase("train", "dreaming", 1),
        {"event": "checkpoint", "step": 1, "time": 1},
    )

    assert progress.running is None


def test_numbers_of_a_step_as_people_read_them() -> None:
    numbers = {
        "step": 3,
        "reward": 0.614,
        "rewards/format/mean": 0.35,
        "rewards/correctness/mean": 0.25,
        "rewards/correctness/std": 0.4,
        "completions/mean_length": 31.4,
        "tokens_per_second": 211.7,
        "loss": None,
    }

    assert describe_numbers(numbers) == (
        "reward 0.61  format 0.35  correct 0.25  length 31  212 tok/s"
    )


def test_numbers_that_are_missing_are_left_out() -> None:
    assert describe_numbers({"step": 3, "reward": None}) == ""
    assert describe_numbers({"accuracy": 0.5, "format": None}) == "accuracy 50.0 %"
    assert describe_numbers({"counts": {"train": 1343, "test": 200, "quarantined": 2}}) == (
        "1,343 train, 200 test rows  2 quarantined"
    )
    numbers = {
        "counts": {"train": 1343, "quarantined": 3},
        "quarantined": {"duplicate": 2, "also-in-test": 1},
        "oddities": {"train": {"blank lines": 12}},
    }
    assert describe_numbers(numbers) == (
        "1,343 train rows  3 quarantined (duplicate 2, also-in-test 1)  train: blank lines 12"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (125, "2 min 05 s"), (4321, "1 h 12 min")],
)
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    assert clock(seconds) == text
