"""Run two `launch` processes as the two hosts of a SageMaker training job, over loopback.

Their files are laid out as the service does it; S3 is played by moto's server, a fake.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration import test_launch
from tests.integration.test_launch import Node, codes, committed, wait_until

from rlvr_trainer.storage import open_storage

run_of = test_launch.run_of
HOSTS = ["127.0.0.1", "127.0.0.2"]
"""In place of algo-1 and algo-2, which would have to resolve."""


def lay_out(root: Path, host: str, hosts: list[str]) -> None:
    for folder in ("input/config", "input/data", "model", "output"):
        (root / folder).mkdir(parents=True)
    resources = {
        "current_host": host,
        "current_instance_type": "ml.g5.xlarge",
        "current_group_name": "homogeneousCluster",
        "hosts": hosts,
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": "ml.g5.xlarge",
                "hosts": hosts,
            }
        ],
        "network_interface_name": "lo",
    }
    config = root / "input" / "config"
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    (config / "inputdataconfig.json").write_text("{}")
    (config / "hyperparameters.json").write_text("{}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., list[Node]]]:
    """Yield a function that starts the hosts of a job."""
    jobs: list[list[Node]] = []

    def start_job(uri: str, hosts: list[str] = HOSTS) -> list[Node]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        nodes: list[Node] = []
        jobs.append(nodes)
        for index, host in enumerate(hosts):
            folder = tmp_path / f"job-{len(jobs)}-algo-{index + 1}"
            lay_out(folder / "ml", host, hosts)
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "rlvr_trainer", "launch", "--run", uri],
                    env={
                        **os.environ,
                        "OMP_NUM_THREADS": "1",
                        "RLVR_SAGEMAKER_ROOT": str(folder / "ml"),
                        "MASTER_PORT": str(port),
                    },
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            nodes.append(Node(process, folder))
        return nodes

    yield start_job
    for node in (node for nodes in jobs for node in nodes if node.process.poll() is None):
        node.process.terminate()
        try:
            node.process.wait(10)
        except subprocess.TimeoutExpired:
            node.process.kill()


def failure(node: Node) -> str:
    return (node.folder / "ml" / "output" / "failure").read_text()


def test_a_stopped_job_is_continued_by_another_one_up_to_the_adapter(
    s3: str, run_of: Callable[..., Path], start: Callable[..., list[Node]]
) -> None:
    run_of("training.max_steps=12", uri=s3)
    storage = open_storage(s3)
    hosts = start(s3)
    wait_until(lambda: committed(storage) >= 1, hosts)
    hosts[1].process.send_signal(signal.SIGTERM)
    signalled = time.monotonic()
    assert codes(hosts) == [143, 143]
    assert time.monotonic() - signalled < 100
    stopped_at = committed(storage)
    assert 1 <= stopped_at < 12
    for host in hosts:
        assert failure(host).startswith(f"[143] step {stopped_at}: stopped by a signal after")
        assert list((host.folder / "ml" / "model").iterdir()) == []

    hosts = start(s3)
    assert codes(hosts) == [0, 0]
    assert f"resuming from step {stopped_at}" in hosts[0].output
    assert not (hosts[0].folder / "ml" / "output" / "failure").exists()
    models = [{file.name for file in (host.folder / "ml" / "model").iterdir()} for host in hosts]
    assert "adapter_model.safetensors" in models[0]
    assert {f"adapter/{name}" for name in models[0]} == set(storage.list("adapter"))
    assert models[1] == set()


def test_damaged_data_is_the_reason_that_the_job_gives(
    s3: str, run_of: Callable[..., Path], start: Callable[..., list[Node]]
) -> None:
    run_of(uri=s3)
    open_storage(s3).write_bytes("data/train.jsonl", b'{"id": "a", "question')
    (host,) = start(s3, hosts=HOSTS[:1])
    assert host.wait() == 3
    assert failure(host).startswith("[3] step 0: ")
    assert "train.jsonl" in failure(host)
