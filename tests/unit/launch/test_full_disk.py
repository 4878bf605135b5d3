"""A full disk changes neither the cause of a termination nor its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr_trainer.errors import PlatformError
from rlvr_trainer.launch import elastic
from rlvr_trainer.launch.rank_outcomes import record_error, record_preempted
from rlvr_trainer.run_dir.events import phase_events
from rlvr_trainer.variables import RANK_ENDS_VARIABLE


def test_an_event_that_cannot_be_written_does_not_hide_the_cause(
    full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> None:
        with phase_events("train"):
            monkeypatch.setenv("RLVR_EVENTS", str(full_disk))
            raise PlatformError("the cause")

    with pytest.raises(PlatformError, match="the cause"):
        train()


def test_a_phase_event_that_cannot_be_written_is_retryable(
    full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLVR_EVENTS", str(full_disk))
    with pytest.raises(PlatformError, match="/dev/full cannot be written"), phase_events("train"):
        pytest.fail("must not begin")


def test_torchrun_whose_ranks_end_without_a_cause_is_retried(
    full_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RANK_ENDS_VARIABLE, str(tmp_path))
    assert elastic._write({"failures": {"0": 1}}) == 1

    monkeypatch.setenv(RANK_ENDS_VARIABLE, str(full_disk))
    assert elastic._write({"failures": {"0": 1}}) == 138


def test_a_rank_that_cannot_write_its_termination_keeps_its_exit_code(
    full_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(RANK_ENDS_VARIABLE, str(full_disk))

    record_error(PlatformError("the cause"))
    record_preempted()

    assert "not recorded for launch: the cause" in caplog.text
