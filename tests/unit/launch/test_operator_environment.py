from __future__ import annotations

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.launch.operator_environment import (
    Nodes,
    child_environment,
    read_nodes,
    torchrun_arguments,
)

PYTORCHJOB = {
    "MASTER_ADDR": "run-master-0",
    "MASTER_PORT": "23456",
    "RANK": "1",
    "WORLD_SIZE": "2",
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "4",
}
TRAINJOB = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "0",
    "PET_NPROC_PER_NODE": "1",
    "PET_MASTER_ADDR": "run-node-0-0.run",
    "PET_MASTER_PORT": "29400",
}


def test_the_ranks_of_a_pytorchjob_are_read() -> None:
    assert read_nodes(PYTORCHJOB) == Nodes(2, 1, 4, "run-master-0", 23456)


def test_the_ranks_of_a_trainjob_are_read() -> None:
    assert read_nodes(TRAINJOB) == Nodes(2, 0, 1, "run-node-0-0.run", 29400)


def test_without_an_operator_one_node_trains_alone() -> None:
    nodes = read_nodes({"PET_NPROC_PER_NODE": "2"})
    assert (nodes.num_nodes, nodes.node_rank, nodes.num_processes) == (1, 0, 2)
    assert nodes.master_addr == "127.0.0.1"


@pytest.mark.parametrize(("visible", "expected"), [("", 1), ("0,1,2", 3), ("-1", 1)])
def test_auto_is_a_process_a_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for value in ("auto", "gpu"):
        assert read_nodes({"PET_NPROC_PER_NODE": value}).num_processes == expected


def test_torchrun_gets_fixed_nodes() -> None:
    arguments = torchrun_arguments(read_nodes(PYTORCHJOB), "/logs", "/run")
    assert " ".join(arguments) == (
        "--nnodes 2 --nproc-per-node 4 --node-rank 1 --master-addr run-master-0 "
        "--master-port 23456 --max-restarts 0 --log-dir /logs --tee 3 "
        "--log-line-prefix-template [rank ${rank}]  -m rlvr_trainer train --run-dir /run"
    )


def test_one_process_writes_its_lines_as_they_are() -> None:
    alone = Nodes(1, 0, 1, "127.0.0.1", 29500)
    assert "--tee" not in torchrun_arguments(alone, "/logs", "/run")


def test_a_child_sees_no_counts_of_pods() -> None:
    child = child_environment(
        {**PYTORCHJOB, **TRAINJOB, "HF_HOME": "/cache"}, RLVR_RUN_URI="s3://b"
    )
    assert not {name for name in child if name.startswith("PET_")}
    assert not {"RANK", "WORLD_SIZE"} & child.keys()
    assert child["HF_HOME"] == "/cache"
    assert child["RLVR_RUN_URI"] == "s3://b"
    assert child["PYTHONUNBUFFERED"] == "1"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"PET_NNODES": "1:4"}, "remove elasticPolicy"),
        ({"PET_NODE_RANK": "2"}, "ranks count from 0"),
        ({"PET_NPROC_PER_NODE": "many"}, "is not a number"),
        ({"MASTER_ADDR": ""}, "needs a Master replica"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_nodes(PYTORCHJOB | changed)


def test_pods_that_would_each_train_alone_are_refused() -> None:
    with pytest.raises(ConfigError, match="each pod would train alone"):
        read_nodes({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "run-master-0"})
