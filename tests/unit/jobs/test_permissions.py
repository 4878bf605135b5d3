"""Report missing permissions, refusals and an unreachable server early."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr_components.jobs.cluster import backend as cluster_backend
from rlvr_components.jobs.cluster import (
    delete_jobs,
    find_jobs,
)
from rlvr_components.jobs.launching import launch
from rlvr_components.kubernetes.access import find_access
from rlvr_trainer.errors import ConfigError, PlatformError

from .fake_api_server import FakeApiServer, Fault
from .objects import (
    SPEC,
)
from .scenarios import JOBS, backend, later, live_job

pytestmark = pytest.mark.timeout(60)


def test_a_missing_right_is_an_error_before_anything_is_created(api: FakeApiServer) -> None:
    api.forbidden = {("get", "pods/log"), ("delete", "pytorchjobs")}

    with pytest.raises(
        ConfigError, match=r"may not delete pytorchjobs, get pods/log in rlvr; bind the Role"
    ):
        launch(backend(), SPEC)

    assert not api.jobs()


def test_a_refusal_names_user_verb_and_role(api: FakeApiServer) -> None:
    api.forbidden = {("create", "pytorchjobs")}
    launcher = backend()

    with pytest.raises(
        ConfigError,
        match=r"launcher may not create pytorchjobs in rlvr; bind the Role rlvr-launcher",
    ):
        launcher.submit(launcher.render(SPEC))


def test_a_cluster_without_the_kind_says_what_to_install(api: FakeApiServer) -> None:
    api.kinds = ("pods", "events")

    with pytest.raises(
        ConfigError, match=r"does not have pytorchjobs.* install the Kubeflow training op"
    ):
        launch(backend(), SPEC)
    with pytest.raises(ConfigError, match=r"does not have pytorchjobs.* or trainjobs.*; install"):
        find_jobs()


def test_the_admission_message_reaches_the_user(api: FakeApiServer) -> None:
    says = "ValidatingAdmissionPolicy 'rlvr-pytorchjobs' denied request: the image has no digest"
    api.faults = [Fault("POST", JOBS, status=422, message=says)]

    with pytest.raises(ConfigError, match=r"refuses to create pytorchjobs in rlvr: .* no digest"):
        launch(backend(), SPEC)


def test_a_server_that_is_not_there_is_a_platform_error(
    api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_backend, "ASK_PATIENCE_S", 0.1)
    config = (tmp_path / "kubeconfig").read_text().replace(api.url, "http://127.0.0.1:9")
    (tmp_path / "kubeconfig").write_text(config)

    with pytest.raises(
        PlatformError, match=r"http://127.0.0.1:9 cannot be reached .* check context"
    ):
        find_jobs()


def test_a_pod_that_cleans_up_waits_for_an_api_server_that_is_restarted(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_backend, "ASK_PATIENCE_S", 0.1)
    live_job(api)
    of_pod = find_access()
    of_pod.in_pod = True

    def restart(method: str) -> None:
        api.faults = [Fault(method, ".", status=503, times=10_000)]
        later(api.faults.clear, 0.5)

    restart("GET")
    with pytest.raises(PlatformError, match="503"):
        find_jobs()

    monkeypatch.setattr(cluster_backend, "find_access", lambda _: of_pod)
    restart("GET")
    jobs = find_jobs()
    restart("DELETE")
    delete_jobs(jobs)

    assert not api.jobs()
