from __future__ import annotations

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.launch.processes import StopRequest
from rlvr_trainer.launch.run_time_limit import seconds_to_train, stop_before_limit


@pytest.mark.parametrize(
    ("max_runtime_s", "margin_s"),
    [(100, 50), (600, 120), (3600, 360), (18000, 900), (5 * 86400, 900)],
)
def test_a_tenth_is_left_between_2_and_15_minutes_and_at_most_half(
    max_runtime_s: int, margin_s: float
) -> None:
    assert max_runtime_s - seconds_to_train(max_runtime_s) == margin_s


def test_the_stop_is_requested_when_the_time_is_over() -> None:
    stop = StopRequest()
    stop.after(3600, "the maximal run time of 4000 s")
    assert not stop.requested
    stop.after(0, "the maximal run time of 4000 s")
    assert stop.requested
    assert stop.reason == "the maximal run time of 4000 s"


def test_without_a_limit_no_stop_is_requested() -> None:
    stop = StopRequest()
    stop_before_limit(stop, {})
    assert not stop.requested
    assert stop.reason == "a signal"


@pytest.mark.parametrize("limit", ["0", "-5", "1h", "1e3"])
def test_a_limit_that_is_not_a_number_of_seconds_is_an_error(limit: str) -> None:
    with pytest.raises(ConfigError, match="RLVR_MAX_RUNTIME_S is"):
        stop_before_limit(StopRequest(), {"RLVR_MAX_RUNTIME_S": limit})
