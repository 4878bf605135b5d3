"""Follow a job while watches, connections, credentials and the API server fail."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from rlvr_components.jobs.cluster import (
    following,
)
from rlvr_components.jobs.launching import launch
from rlvr_components.kubernetes import client, watch
from rlvr_trainer.errors import ConfigError, PlatformError

from .fake_api_server import FakeApiServer, Fault
from .objects import (
    SPEC,
    Object,
)
from .scenarios import JOBS, backend, later, run_pods, succeed, trains

pytestmark = pytest.mark.timeout(60)


def test_a_watch_continues_after_it_was_closed_cut_and_expired(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_S", 0.3)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.8)  # the server closes watches in between
            api.drop_connections()
            time.sleep(0.3)
            api.forget_history()
            time.sleep(0.3)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)

    assert api.num_requests(f"GET .*{JOBS}.*watch=true") >= 4


def test_an_expired_version_is_recovered_by_listing_again(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_S", 0.3)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.5)
            # fail every watch from now on, so that only a list shows the change
            api.faults = [Fault("GET", "watch=true", status=410, times=10_000)]
            time.sleep(0.5)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)


def test_a_connection_that_went_silent_is_given_up(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "READ_TIMEOUT_S", 0.4)
    api.faults = [Fault("GET", "watch=true", silent_s=60, times=3)]
    trains(api)

    launch(backend(), SPEC)


def test_an_api_server_outage_is_waited_for_and_the_job_left_alone(api: FakeApiServer) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def course() -> None:
            time.sleep(0.3)
            api.faults = [
                Fault("GET", ".", status=500, times=8),
                Fault("GET", ".", status=429, headers={"Retry-After": "1"}, times=4),
            ]
            api.drop_connections()
            time.sleep(2)
            succeed(api, job)

        threading.Thread(target=course).start()

    api.on_create = on_create

    launch(backend(), SPEC)

    assert api.num_requests("DELETE") == 0


def test_retry_after_is_respected() -> None:
    from rlvr_components.kubernetes.api_errors import Outage

    asked = Outage("busy", status=429, retry_after_s=7.0)

    assert client.retry_delay(asked, 0.5) == 7.0
    assert client.retry_delay(Outage("busy"), 0.5) == 0.5


def test_an_api_server_that_stays_away_is_an_error_and_the_job_continues(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OUTAGE_S", 0.5)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def leave() -> None:
            api.faults = [Fault("GET", ".", status=503, times=10_000)]
            api.drop_connections()

        later(leave)

    api.on_create = on_create

    with pytest.raises(PlatformError, match="continues, run it again") as caught:
        launch(backend(), SPEC)

    assert caught.value.exit_code == 138
    assert "(503: told to fail)" in str(caught.value)
    assert len(api.jobs()) == 1


def test_an_expired_login_is_the_reported_cause(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OUTAGE_S", 0.5)

    def on_create(job: Object) -> None:
        run_pods(api, job)

        def expire() -> None:
            api.token = "another"
            api.drop_connections()

        later(expire)

    api.on_create = on_create

    with pytest.raises(PlatformError, match=r"does not accept the credentials \(401\); log in"):
        launch(backend(), SPEC)


def test_a_token_that_was_replaced_is_read_again(api: FakeApiServer, tmp_path: Path) -> None:
    def on_create(job: Object) -> None:
        run_pods(api, job)

        def rotate() -> None:
            api.token = "second"
            (tmp_path / "token").write_text("second")
            api.drop_connections()
            succeed(api, job)

        later(rotate)

    api.on_create = on_create

    launch(backend(), SPEC)


def test_refused_credentials_are_an_error(api: FakeApiServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("no such token")

    with pytest.raises(ConfigError, match=r"does not accept the credentials \(401\); log in again"):
        launch(backend(), SPEC)
