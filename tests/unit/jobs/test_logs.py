"""Follow the logs of all replicas without losing or repeating a line, in little memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rlvr_components.jobs.cluster.replica_logs import ReplicaLogs
from rlvr_components.jobs.kinds import PYTORCHJOB
from rlvr_components.kubernetes.access import find_access
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.kubernetes.container_logs import Window, split_timestamp

from .fake_api_server import FakeApiServer, Fault
from .objects import Object, condition, pod, pytorchjob, terminated

pytestmark = pytest.mark.timeout(60)
NAME = "tiny-worker-0"


@contextmanager
def following(api: FakeApiServer) -> Iterator[ReplicaLogs]:
    def pods() -> list[Object]:
        return [obj for (kind, _), obj in api.objects.items() if kind == "pods"]

    logs = ReplicaLogs(KubernetesApi(find_access()), PYTORCHJOB, pods)
    logs.follow(pods())
    try:
        yield logs
    finally:
        logs.close()


def all_lines(logs: ReplicaLogs) -> list[str]:
    lines = []
    while not logs.is_complete:
        lines += list(logs.take(0.05))
    return lines


def end(api: FakeApiServer, name: str = NAME) -> None:
    state = terminated(0, reason="Completed")
    statuses = [{"name": "pytorch", "restartCount": 0, "state": state}]
    api.change("pods", name, phase="Succeeded", containerStatuses=statuses)
    api.end_log(name)


@pytest.mark.parametrize("is_clean", [False, True])
def test_a_connection_cut_in_the_middle_of_a_line_loses_and_repeats_nothing(
    api: FakeApiServer, is_clean: bool
) -> None:
    api.cut_is_clean = is_clean
    api.put("pods", pod())
    second = "2026-11-25T03:00:07"
    for number in range(40):  # all within one second, as a log can only be asked for by seconds
        api.log(NAME, f"line {number}", time=f"{second}.{number:06}000Z")
    api.cut_logs_after = 13

    with following(api) as logs:
        threading.Timer(0.3, end, [api]).start()
        lines = all_lines(logs)

    assert lines == [f"[worker-0] line {number}" for number in range(40)]
    assert api.num_requests(r"/log\?.*sinceTime=2026-11-25T03%3A00%3A06Z") >= 1


def test_lines_that_are_the_same_are_all_given(api: FakeApiServer) -> None:
    api.put("pods", pod())
    for _ in range(3):
        api.log(NAME, "again", time="2026-11-25T03:00:07.000000001Z")
    api.cut_logs_after = 2

    with following(api) as logs:
        threading.Timer(0.3, end, [api]).start()
        lines = all_lines(logs)

    assert lines == ["[worker-0] again"] * 3


def test_a_log_is_followed_across_errors_of_the_server(api: FakeApiServer) -> None:
    api.put("pods", pod())
    api.log(NAME, "one")
    api.faults = [Fault("GET", "/log", status=500, times=3), Fault("GET", "/log", status=400)]

    with following(api) as logs:

        def course() -> None:
            time.sleep(0.6)
            api.drop_connections()
            api.log(NAME, "two")
            time.sleep(0.3)
            end(api)

        threading.Thread(target=course).start()
        lines = all_lines(logs)

    assert lines == ["[worker-0] one", "[worker-0] two"]


def test_a_recreated_pod_is_followed_again(api: FakeApiServer) -> None:
    api.put("pods", pod())
    api.log(NAME, "first try")
    with following(api) as logs:
        end(api)
        lines = all_lines(logs)
        api.remove("pods", NAME)
        api.logs.clear()
        api.log_ends.clear()
        fresh = pod()
        fresh["metadata"]["uid"] = "another"
        api.put("pods", fresh)
        api.log(NAME, "second try")
        logs.follow([api.objects["pods", NAME]])
        end(api)
        lines += all_lines(logs)

    assert lines == ["[worker-0] first try", "[worker-0] second try"]


def test_the_log_of_a_restarted_container_is_read_as_the_previous(
    api: FakeApiServer,
) -> None:
    api.put("pods", pod())
    api.log(NAME, "one")
    with following(api) as logs:
        lines = list(logs.take(2))
        statuses = [{"name": "pytorch", "restartCount": 1, "state": {"running": {}}}]
        api.change("pods", NAME, containerStatuses=statuses)
        api.log(NAME, "last words")
        api.drop_connections()
        lines += all_lines(logs)

    assert lines == ["[worker-0] one", "[worker-0] last words"]
    assert api.num_requests(r"/log\?.*previous=true") == 1


def test_a_deleted_pod_ends_its_log(api: FakeApiServer) -> None:
    api.put("pods", pod())
    with following(api) as logs:
        api.remove("pods", NAME)
        api.drop_connections()

        assert all_lines(logs) == []


def test_a_reader_that_is_slow_holds_the_logs_back(
    api: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlvr_components.jobs.cluster import replica_logs

    monkeypatch.setattr(replica_logs, "MAX_QUEUED_LINES", 5)
    api.put("pods", pod())
    api.log(NAME, *(f"line {number}" for number in range(200)))
    with following(api) as logs:
        end(api)
        time.sleep(0.5)
        assert logs._queue.qsize() <= 5
        assert len(all_lines(logs)) == 200


def test_an_endless_line_is_cut(api: FakeApiServer) -> None:
    api.put("pods", pod())
    api.log(NAME, "x" * 500_000, "next")
    with following(api) as logs:
        end(api)
        long, short = all_lines(logs)

    assert len(long) < 70_000
    assert short == "[worker-0] next"


def test_a_window_forgets_what_cannot_come_again() -> None:
    window = Window()
    for second in range(1000, 1010):
        assert window.is_new(second, b"line")

    assert len(window._given) == 2
    assert window.since == "1970-01-01T00:16:48Z"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"2026-11-25T03:00:07.123456789Z hello there\n", "hello there"),
        (b"2026-11-25T04:00:07.123456789+01:00 hello\n", "hello"),
        (b"2026-11-25T03:00:07.1Z \n", ""),
        (b"2026-11-25T03:00:07.1Z caf\xe9\n", "caf\ufffd"),
        (b"unable to retrieve container logs for containerd://1234\n", None),
        (b"failed to try resolving symlinks in path\n", None),
    ],
)
def test_a_line_is_its_time_and_its_text(line: bytes, expected: str | None) -> None:
    stamped = split_timestamp(line)

    assert (stamped[1] if stamped else None) == expected
    if stamped:
        assert int(stamped[0]) == 1795575607


FOLLOW = """
import sys
from rlvr_components.jobs.cluster import open_backend
from rlvr_components.platform.settings import Platform
from rlvr_trainer.storage import open_storage
import boto3
boto3.client("s3", region_name="us-east-1")  # what progress in S3 needs
num_lines = sum(1 for line in open_backend("pytorchjob", Platform(image="x")).logs("tiny"))
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
print(num_lines, peak // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_logs_of_64_ranks_are_followed_in_less_than_150_mib(api: FakeApiServer) -> None:
    replicas = ["master-0", *(f"worker-{index}" for index in range(63))]
    api.put("pytorchjobs", pytorchjob("tiny", workers=63))
    for replica in replicas:
        api.put("pods", pod(replica))
        api.log(f"tiny-{replica}", *(f"{replica} says {i} " + "x" * 200 for i in range(300)))
    process = subprocess.Popen([sys.executable, "-c", FOLLOW], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while api.num_requests("/log") < 64:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for replica in replicas:
        end(api, f"tiny-{replica}")
    api.change("pytorchjobs", "tiny", conditions=[condition("Succeeded")])

    printed, _ = process.communicate(timeout=30)
    num_lines, peak_mib = map(int, printed.split())

    assert num_lines >= 64 * 300
    assert peak_mib < 150


def test_closing_ends_a_read_that_waits(api: FakeApiServer) -> None:
    api.put("pods", pod())
    with following(api) as logs:
        list(logs.take(0.1))
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("logs ") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
