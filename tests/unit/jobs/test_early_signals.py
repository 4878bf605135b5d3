"""A signal before the launch stops the job of an earlier launch."""

from __future__ import annotations

import os
import signal
import time

import pytest

from rlvr_components.jobs import JobSpec
from rlvr_components.jobs.cluster import open_backend
from rlvr_components.jobs.launching import launch
from rlvr_components.jobs.local_process import LocalBackend
from rlvr_trainer.errors import JobFailed

from .fake_api_server import FakeApiServer, Fault
from .objects import PLATFORM, SPEC, Object, condition

pytestmark = pytest.mark.timeout(60)
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def earlier_job(api: FakeApiServer, *conditions: Object) -> None:
    backend = open_backend("pytorchjob", PLATFORM)
    backend.submit(backend.render(SPEC))
    api.change("pytorchjobs", SPEC.name, conditions=list(conditions))


def interrupted(spec: JobSpec) -> JobSpec:
    """Receive a signal while a large data set is staged."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
    return spec


@pytest.mark.parametrize("number", SIGNALS)
def test_a_job_of_an_earlier_launch_is_stopped_at_once(
    number: signal.Signals, api: FakeApiServer
) -> None:
    earlier_job(api)
    before = [signal.getsignal(number) for number in SIGNALS]

    def prepare(spec: JobSpec) -> JobSpec:
        os.kill(os.getpid(), number)
        time.sleep(30)
        return spec

    started = time.monotonic()
    with pytest.raises(JobFailed, match="stopped by a signal before its job") as caught:
        launch(open_backend("pytorchjob", PLATFORM), SPEC, prepare)

    assert caught.value.exit_code == 143
    assert time.monotonic() - started < 10
    assert not api.jobs()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_during_the_search_for_the_job_stops_it_too(api: FakeApiServer) -> None:
    earlier_job(api)
    api.faults = [Fault("GET", "/pytorchjobs", delay_s=1)]

    def prepare(spec: JobSpec) -> JobSpec:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        return spec

    previous = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(JobFailed) as caught:
            launch(open_backend("pytorchjob", PLATFORM), SPEC, prepare)
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert caught.value.exit_code == 143
    assert not api.jobs()


def test_a_job_that_has_succeeded_stays(api: FakeApiServer) -> None:
    earlier_job(api, condition("Succeeded"))

    with pytest.raises(JobFailed):
        launch(open_backend("pytorchjob", PLATFORM), SPEC, interrupted)

    assert len(api.jobs()) == 1


def test_nothing_is_launched_after_it(api: FakeApiServer) -> None:
    with pytest.raises(JobFailed):
        launch(open_backend("pytorchjob", PLATFORM), SPEC, interrupted)
    assert api.num_requests("POST .*/pytorchjobs") == 0

    with pytest.raises(JobFailed) as caught:
        launch(LocalBackend(), SPEC, interrupted)
    assert caught.value.exit_code == 143
