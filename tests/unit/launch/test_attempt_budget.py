from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr_trainer.errors import CheckpointError
from rlvr_trainer.launch.attempt_budget import Attempts
from rlvr_trainer.launch.exit_causes import End
from rlvr_trainer.storage import open_storage

LOST = End(138, "rank 0 was killed by SIGKILL")
OOM = End(137, "out of memory")


def attempt(run_dir: Path, end: End | None, *, step: int, node_rank: int = 0) -> End | None:
    """Begin an attempt and end it at the step (None: the process is killed)."""
    attempts = Attempts(open_storage(run_dir), node_rank, max_attempts=3)
    exhausted = attempts.begin(step)
    return exhausted or (attempts.end(end, step) if end else None)


def test_an_attempt_leaves_its_cause(tmp_path: Path) -> None:
    assert attempt(tmp_path, LOST, step=4) == LOST
    (record,) = json.loads((tmp_path / "attempts.json").read_text())
    assert record.pop("time") > 0
    assert record == {"step": 4, "exit_code": 138, "cause": LOST.cause}


def test_the_last_attempt_without_progress_is_permanent(tmp_path: Path) -> None:
    assert [attempt(tmp_path, LOST, step=0) for _ in range(2)] == [LOST, LOST]
    last = attempt(tmp_path, LOST, step=0)
    assert last is not None
    assert last.exit_code == 9
    assert "3 attempts (--max-attempts 3) failed without a commit after step 0" in last.cause
    assert LOST.cause in last.cause


def test_attempts_that_advance_are_not_limited(tmp_path: Path) -> None:
    assert all(attempt(tmp_path, LOST, step=step) == LOST for step in range(1, 12))


def test_progress_resets_the_count(tmp_path: Path) -> None:
    steps = (0, 0, 5, 5, 5)
    assert all(attempt(tmp_path, LOST, step=step) == LOST for step in steps)
    last = attempt(tmp_path, LOST, step=5)
    assert last is not None
    assert last.exit_code == 9


def test_killed_attempts_count_too(tmp_path: Path) -> None:
    for _ in range(3):
        assert attempt(tmp_path, None, step=0) is None
    last = attempt(tmp_path, LOST, step=0)
    assert last is not None
    assert last.exit_code == 9
    assert "ended without a record" in last.cause


def test_out_of_memory_is_tried_once_more(tmp_path: Path) -> None:
    assert attempt(tmp_path, OOM, step=3) == OOM
    last = attempt(tmp_path, OOM, step=9)
    assert last == End(9, "for the second time out of memory")


def test_starting_a_failed_job_again_has_a_new_budget(tmp_path: Path) -> None:
    for _ in range(3):
        attempt(tmp_path, LOST, step=0)
    assert attempt(tmp_path, LOST, step=0) == LOST


def test_permanent_failures_and_successes_are_recorded_unchanged(tmp_path: Path) -> None:
    assert attempt(tmp_path, End(5, "rewards"), step=0) == End(5, "rewards")
    assert attempt(tmp_path, End(0, "finished"), step=9) == End(0, "finished")


def test_nodes_keep_their_own_records(tmp_path: Path) -> None:
    attempt(tmp_path, OOM, step=0, node_rank=1)
    assert attempt(tmp_path, OOM, step=0, node_rank=0) == OOM
    assert (tmp_path / "attempts-node-1.json").exists()


def test_a_damaged_record_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "attempts.json").write_text('[{"time"')
    with pytest.raises(CheckpointError, match="is damaged"):
        attempt(tmp_path, LOST, step=0)
