"""List jobs, their status and their lines without changing anything."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from rlvr_components.jobs.cluster import (
    CUSTOM_COLUMNS,
    delete_jobs,
    find_jobs,
)
from rlvr_components.kubernetes import client
from rlvr_trainer.errors import ConfigError

from .fake_api_server import FakeApiServer
from .objects import (
    SPEC,
    said,
    terminated,
    waiting,
)
from .scenarios import backend, fail, failed_job, later, live_job, run_pods

pytestmark = pytest.mark.timeout(60)


def test_jobs_are_listed_the_newest_first_with_progress_and_cause(api: FakeApiServer) -> None:
    old = failed_job(api, 3)
    old["metadata"]["creationTimestamp"] = "2026-11-24T03:00:00Z"
    api.put("pytorchjobs", old)
    new = live_job(api, 2)
    new["metadata"]["annotations"] |= {"rlvr.dev/step": "12/100", "rlvr.dev/reward": "0.610"}
    api.put("pytorchjobs", new)
    run_pods(api, new)

    second, first = find_jobs(run="tiny")

    assert (second.attempt, second.phase, second.progress_step) == (2, "running", "12/100")
    assert (second.run, second.step, second.reward) == ("tiny", "train", "0.610")
    assert [replica.name for replica in second.replicas] == ["master-0", "worker-0"]
    assert (first.phase, first.exit_code, first.cause) == ("failed", 3, "master-0: ended with 3")
    assert first.age_s > second.age_s


def test_jobs_are_found_by_run_id_and_name(api: FakeApiServer) -> None:
    live_job(api)
    other = live_job(api, spec=replace(SPEC, run_id="run-1"))

    assert [job.name for job in find_jobs(run_id="run-1")] == [other["metadata"]["name"]]
    assert [job.name for job in find_jobs(job=SPEC.name)] == [SPEC.name]
    assert find_jobs(run="another") == []


def test_status_takes_a_few_requests_and_little_time(api: FakeApiServer) -> None:
    for attempt in range(1, 11):
        run_pods(api, live_job(api, attempt), *(f"worker-{index}" for index in range(16)))
    api.requests.clear()
    started = time.monotonic()

    jobs = find_jobs()

    assert time.monotonic() - started < 1
    assert len(jobs) == 10
    assert len(api.requests) <= 5


def test_a_list_of_several_pages_is_read_to_its_end(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 3)
    for attempt in range(1, 9):
        live_job(api, attempt)

    assert len(find_jobs()) == 8


def test_cleaning_deletes_jobs_and_says_which(api: FakeApiServer) -> None:
    failed_job(api, 3)
    jobs = find_jobs()

    assert [job.name for job in delete_jobs(jobs)] == [SPEC.name]
    assert delete_jobs(jobs) == []
    assert not api.jobs()


def test_the_lines_so_far_are_in_the_order_of_their_time(api: FakeApiServer) -> None:
    job = live_job(api)
    run_pods(api, job)
    for second, replica, line in ((2, "worker-0", "b"), (1, "master-0", "a"), (3, "master-0", "c")):
        api.log(f"{SPEC.name}-{replica}", line, time=f"2026-11-25T03:00:0{second}.000000000Z")

    lines = list(backend().logs(SPEC.name, follow=False))

    assert lines == ["[master-0] a", "[worker-0] b", "[master-0] c"]


def test_following_as_a_reader_changes_nothing(api: FakeApiServer) -> None:
    job = live_job(api)
    run_pods(api, job, phase="Pending", state=waiting("InvalidImageName", "A:B:C"))
    later(lambda: fail(api, job, "worker-0", terminated(3, message=said("no rows", 3))), 1.5)
    onlooker = backend(start_grace_s=1, queue_timeout_s=1)

    lines = list(onlooker.logs(SPEC.name))

    assert onlooker.status(SPEC.name).cause == "worker-0: no rows"
    assert any("InvalidImageName" in line for line in lines)
    assert api.num_requests("PATCH|DELETE") == 0


def test_an_unknown_job_is_an_error(api: FakeApiServer) -> None:
    with pytest.raises(
        ConfigError, match=r"PyTorchJob 'other' does not exist in namespace rlvr; `rlvr status`"
    ):
        backend().status("other")


def test_the_columns_for_kubectl_name_the_annotations() -> None:
    for annotation in (r"rlvr\.dev/step", r"rlvr\.dev/reward", r"rlvr\.dev/phase"):
        assert f".metadata.annotations.{annotation}" in CUSTOM_COLUMNS
