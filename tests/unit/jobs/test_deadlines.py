"""Limit the time in the queue and the running time."""

from __future__ import annotations

from rlvr_components.jobs.cluster.limits import Deadlines
from rlvr_components.jobs.cluster.pending import PendingReason
from rlvr_components.platform.settings import Platform

PLATFORM = Platform(image="i", queue_timeout_s=100, run_timeout_s=1000, start_grace_s=10)
ROOM = PendingReason("0/3 nodes are available")
IMAGE = PendingReason("no such image", 2, "grace")


def deadlines(now: float = 0, running_since: float | None = None) -> Deadlines:
    return Deadlines(PLATFORM, created_at=0, running_since=running_since, now=now)


def test_the_queue_is_counted_from_the_jobs_creation_also_by_a_later_launcher() -> None:
    adopted = deadlines(now=90)

    assert adopted.check(is_running=False, pending=ROOM, now=99) is None
    exceeded = adopted.check(is_running=False, pending=ROOM, now=100)

    assert exceeded is not None
    assert "queue_timeout_s (100 s): 0/3 nodes are available" in exceeded.cause
    assert exceeded.exit_code == 138


def test_the_last_pending_reason_is_reported_when_there_is_none_now() -> None:
    waits = deadlines()
    waits.check(is_running=False, pending=ROOM, now=50)

    exceeded = waits.check(is_running=False, pending=None, now=100)

    assert exceeded is not None
    assert "0/3 nodes" in exceeded.cause


def test_a_long_queue_takes_nothing_from_the_run() -> None:
    run = deadlines()
    assert run.check(is_running=True, pending=None, now=99) is None

    assert run.check(is_running=True, pending=None, now=1098) is None
    exceeded = run.check(is_running=True, pending=None, now=1099)

    assert exceeded is not None
    assert "run_timeout_s (1000 s)" in exceeded.cause
    assert exceeded.exit_code == 7


def test_a_later_launcher_counts_the_run_from_its_begin() -> None:
    adopted = deadlines(now=500, running_since=10)

    assert adopted.check(is_running=True, pending=None, now=1009) is None
    assert adopted.check(is_running=True, pending=None, now=1010) is not None


def test_a_lost_replica_waits_in_the_queue_again_for_its_full_time() -> None:
    run = deadlines(running_since=10, now=10)
    run.check(is_running=True, pending=None, now=300)

    assert run.check(is_running=False, pending=ROOM, now=301) is None
    assert run.check(is_running=False, pending=ROOM, now=400) is None
    exceeded = run.check(is_running=False, pending=ROOM, now=401)

    assert exceeded is not None
    assert "ran again within" in exceeded.cause


def test_the_grace_of_a_pending_reason_starts_again_once_it_passed() -> None:
    starts = deadlines()
    assert starts.check(is_running=False, pending=IMAGE, now=1) is None
    assert starts.check(is_running=False, pending=IMAGE, now=10) is None
    assert starts.check(is_running=False, pending=ROOM, now=11) is None
    assert starts.check(is_running=False, pending=IMAGE, now=12) is None

    exceeded = starts.check(is_running=False, pending=IMAGE, now=22)

    assert exceeded is not None
    assert (exceeded.cause, exceeded.exit_code) == ("no such image", 2)
