"""Stop a job by a signal or from elsewhere."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from .fake_api_server import FakeApiServer, Fault
from .objects import (
    SPEC,
    Object,
)
from .scenarios import JOBS, backend, later, live_job, run_pods, stopping

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_deletes_the_job_first_and_at_once(
    api: FakeApiServer, number: signal.Signals
) -> None:
    signalled_at: list[float] = []
    deleted: list[float] = []

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def tell() -> None:
            signalled_at.append(time.monotonic())
            os.kill(os.getpid(), number)

        later(tell)

    api.on_create = on_create
    api.on_delete = lambda job: deleted.append(time.monotonic())

    error = stopping(api)

    assert error.exit_code == 143
    assert not api.jobs()
    assert deleted[0] - signalled_at[0] < 0.5
    assert api.num_requests("DELETE") == 1


def test_a_signal_while_the_job_is_created_leaves_none(api: FakeApiServer) -> None:
    api.faults = [Fault("POST", JOBS, delay_s=0.6)]

    def tell() -> None:
        while not api.num_requests(f"POST .*{JOBS}"):
            time.sleep(0.005)
        time.sleep(0.2)  # the create is applied only after the signal
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()

    error = stopping(api)

    assert error.exit_code == 143
    assert not api.jobs()


def test_a_signal_after_a_job_was_adopted_is_for_it(api: FakeApiServer) -> None:
    live_job(api)
    chosen = backend()
    chosen.next_attempt(SPEC)

    chosen.stop("")

    assert not api.jobs()


def test_a_signal_ends_the_retries_of_a_create(api: FakeApiServer) -> None:
    api.faults = [Fault("POST", JOBS, status=503, times=10_000)]
    later(lambda: os.kill(os.getpid(), signal.SIGTERM))

    error = stopping(api)

    assert error.exit_code == 143
    assert not api.jobs()


def test_a_failed_delete_is_retried(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)
        api.faults = [Fault("DELETE", JOBS, status=503, times=2)]
        later(lambda: os.kill(os.getpid(), signal.SIGTERM))

    api.on_create = on_create

    stopping(api)

    assert not api.jobs()
    assert api.num_requests("DELETE") == 3


def test_stop_from_elsewhere_deletes_and_may_be_repeated(api: FakeApiServer) -> None:
    job = live_job(api)

    backend().stop(job["metadata"]["name"])
    backend().stop(job["metadata"]["name"])

    assert not api.jobs()
