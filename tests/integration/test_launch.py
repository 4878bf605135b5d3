"""Run two `launch` processes as two nodes of a job, each with its own disk, over gloo.

S3 is played by moto's server, a fake; tests/cluster uses a real S3-compatible server.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.api import prepare
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir import checkpoint, remote_checkpoint
from rlvr_trainer.storage import Storage, open_storage

REWARD = "def vowels(completion, row):\n    return sum(c in 'aeiou' for c in completion) / 40\n"


@pytest.fixture
def run_of(tiny_model_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that prepares a demo run on a random model and uploads it to a URI."""

    def make(*overrides: str, uri: str | None = None) -> Path:
        reward = tmp_path / "reward.py"
        reward.write_text(REWARD)
        recipe: Recipe = load_recipe(
            "arithmetic",
            [
                f"model.name={tiny_model_dir}",
                "model.dtype=fp32",
                f"rewards={{vowels: {{function: '{reward}:vowels'}}}}",
                "data={num_train_rows: 40, num_test_rows: 8, num_exemplars: 2}",
                "prompt.num_shots=2",
                "sampling={num_generations: 4, max_completion_tokens: 8}",
                "training={max_steps: 2, per_device_batch_size: 4, learning_rate: 1e-3, "
                "gradient_checkpointing: false, num_validation_rows: 0, save_steps: 1}",
                *overrides,
            ],
        )
        run_dir = tmp_path / "prepared"
        run_dir.mkdir()
        (run_dir / "recipe.json").write_text(recipe.model_dump_json())
        prepare(recipe, run_dir / "data")
        if uri:
            open_storage(uri).upload_dir(run_dir, "")
        return run_dir

    return make


@dataclass
class Node:
    """A launch as the operator starts it, in a process group that the test can inspect."""

    process: subprocess.Popen[bytes]
    folder: Path

    def wait(self, timeout_s: float = 240) -> int:
        return self.process.wait(timeout_s)

    @property
    def message(self) -> dict[str, Any]:
        termination: dict[str, Any] = json.loads((self.folder / "termination-log").read_text())
        return termination

    @property
    def output(self) -> str:
        return (self.folder / "log").read_text()

    def ranks(self) -> list[int]:
        """Wait until the node's ranks train and return their process ids."""
        listed = subprocess.run(
            ["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(maxsplit=2) for line in listed.splitlines()]
        torchrun = {row[0] for row in rows if row[1] == str(self.process.pid)}
        return [int(row[0]) for row in rows if row[1] in torchrun]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], list[Node]]]:
    """Yield a function that starts the two nodes of an attempt."""
    started: list[Node] = []

    def start_nodes(uri: str, *options: str) -> list[Node]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        nodes = []
        for rank in range(2):
            folder = tmp_path / f"node-{len(started) // 2}-{rank}"
            folder.mkdir()
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "PET_NNODES": "2",
                "PET_NODE_RANK": str(rank),
                "PET_NPROC_PER_NODE": "1",
                "RLVR_TERMINATION_LOG": str(folder / "termination-log"),
            }
            (folder / "termination-log").touch()
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "rlvr_trainer", "launch", "--run", uri),
                        *("--work-dir", str(folder / "run"), *options),
                    ],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            nodes.append(Node(process, folder))
            started.append(nodes[-1])
        return nodes

    yield start_nodes
    for node in started:
        if node.process.poll() is None:
            node.process.terminate()
            try:
                node.process.wait(10)
            except subprocess.TimeoutExpired:
                node.process.kill()


def codes(nodes: list[Node]) -> list[int]:
    exit_codes = [node.wait() for node in nodes]
    if exit_codes not in ([0, 0], [143, 143], [138, 138]):
        print(*(node.output[-3000:] for node in nodes), sep="\n----\n")
    return exit_codes


def committed(storage: Storage) -> int:
    return remote_checkpoint.committed_step(storage)


def wait_until(condition: Callable[[], object], nodes: list[Node], timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert all(node.process.poll() is None for node in nodes), nodes[0].output[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_nodes_train_with_all_that_is_left_in_s3(
    s3: str, run_of: Callable[..., Path], start: Callable[..., list[Node]]
) -> None:
    run_of(uri=s3)
    nodes = start(s3)
    assert codes(nodes) == [0, 0]
    storage = open_storage(s3)
    assert "adapter/adapter_model.safetensors" in storage.list("adapter")
    events = [json.loads(line) for line in storage.read_bytes("metrics.jsonl").splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2]
    assert committed(storage) == 2
    names = {key.rpartition("/")[2] for key in storage.list("checkpoints")}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= names
    assert nodes[0].message == {"cause": "finished", "exit_code": 0, "step": 2, "node_rank": 0}
    assert "[rank 1] " in nodes[1].output


def test_a_signal_to_one_node_commits_one_step_on_all_and_another_attempt_continues(
    s3: str, run_of: Callable[..., Path], start: Callable[..., list[Node]]
) -> None:
    """Use ZeRO-3, whose shards are on both nodes' disks."""
    run_of("training.zero_stage=3", "training.max_steps=400", uri=s3)
    storage = open_storage(s3)
    nodes = start(s3)
    wait_until(lambda: committed(storage) >= 2, nodes)
    nodes[1].process.send_signal(signal.SIGTERM)
    nodes[1].process.send_signal(signal.SIGTERM)
    assert codes(nodes) == [143, 143]
    stopped_at = committed(storage)
    names = {key.rpartition("/")[2] for key in storage.list("checkpoints")}
    assert {f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(2)} <= names
    assert [node.message["step"] for node in nodes] == [stopped_at, stopped_at]

    nodes = start(s3)
    wait_until(lambda: committed(storage) > stopped_at, nodes)
    nodes[0].process.send_signal(signal.SIGTERM)
    assert codes(nodes) == [143, 143]
    events = [json.loads(line) for line in storage.read_bytes("metrics.jsonl").splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert steps == list(range(1, committed(storage) + 1))  # none repeated, none missing
    attempts = json.loads(storage.read_bytes("attempts.json"))
    assert [event["exit_code"] for event in attempts] == [143, 143]


def test_a_killed_rank_is_named_by_its_own_node(
    s3: str, run_of: Callable[..., Path], start: Callable[..., list[Node]]
) -> None:
    run_of("training.max_steps=400", uri=s3)
    storage = open_storage(s3)
    nodes = start(s3)
    wait_until(lambda: committed(storage) >= 1, nodes)
    (rank,) = nodes[1].ranks()
    os.kill(rank, signal.SIGKILL)
    assert codes(nodes) == [138, 138]
    assert nodes[1].message["cause"] == "rank 1 was killed by SIGKILL"
    assert nodes[0].message["cause"].startswith("another node failed: ")


def test_a_shared_folder_takes_both_nodes_shards(
    run_of: Callable[..., Path], start: Callable[..., list[Node]]
) -> None:
    run_dir = run_of("training.zero_stage=3")
    assert codes(start(str(run_dir))) == [0, 0]
    assert (run_dir / "adapter" / "adapter_model.safetensors").is_file()
    newest = checkpoint.newest_committed(run_dir / "checkpoints")
    assert newest is not None
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in newest.iterdir()}
