"""Translate the training operator's environment to arguments of torchrun.

The operator of PyTorchJobs sets MASTER_ADDR, MASTER_PORT and PET_*, and RANK and WORLD_SIZE, which
count pods, not processes. Trainer v2 sets PET_* only, including PET_MASTER_ADDR and
PET_MASTER_PORT. torchrun would read PET_* as defaults of its options.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from rlvr_trainer.errors import ConfigError

DEFAULT_MASTER_PORT = 29500
POD_COUNTS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
RANK_SHUTDOWN_S = 30
"""Time that torchrun gives the other ranks of its node after a failure."""


@dataclass(frozen=True)
class Nodes:
    """The nodes that train together, as seen from one of them."""

    num_nodes: int
    node_rank: int
    num_processes: int
    """Processes of each node."""
    master_addr: str
    master_port: int

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.num_processes


def read_nodes(environ: Mapping[str, str]) -> Nodes:
    """Return the nodes of the operator's variables; without any, this one alone.

    Raises ConfigError.
    """
    num_nodes = _number(environ, "PET_NNODES", 1)
    if "PET_NNODES" not in environ and _number(environ, "WORLD_SIZE", 1) > 1:
        raise ConfigError(
            f"WORLD_SIZE is {environ['WORLD_SIZE']} and PET_NNODES is not set, so each pod "
            "would train alone; set PET_NNODES and PET_NODE_RANK"
        )
    node_rank = _number(environ, "PET_NODE_RANK", 0)
    if not 0 <= node_rank < num_nodes:
        raise ConfigError(
            f"PET_NODE_RANK is {node_rank}, PET_NNODES {num_nodes}; ranks count from 0 to the "
            "number of nodes less 1"
        )
    num_processes = _num_processes(environ.get("PET_NPROC_PER_NODE", "auto"))
    if num_nodes == 1:
        return Nodes(1, 0, num_processes, "127.0.0.1", _free_port())
    master = environ.get("MASTER_ADDR") or environ.get("PET_MASTER_ADDR")
    if not master:
        raise ConfigError(
            f"PET_NNODES is {num_nodes}, but neither MASTER_ADDR nor PET_MASTER_ADDR is set; a "
            "PyTorchJob needs a Master replica"
        )
    port = "MASTER_PORT" if environ.get("MASTER_PORT") else "PET_MASTER_PORT"
    return Nodes(
        num_nodes, node_rank, num_processes, master, _number(environ, port, DEFAULT_MASTER_PORT)
    )


def torchrun_arguments(nodes: Nodes, log_dir: str, run_dir: str) -> list[str]:
    """Return arguments of torch.distributed.run that train `run_dir` on a fixed number of nodes.

    With several ranks, each line of output begins with the rank.
    """
    prefixed = [
        *("--log-dir", log_dir, "--tee", "3"),
        *("--log-line-prefix-template", "[rank ${rank}] "),
    ]
    return [
        *("--nnodes", str(nodes.num_nodes)),
        *("--nproc-per-node", str(nodes.num_processes)),
        *("--node-rank", str(nodes.node_rank)),
        *("--master-addr", nodes.master_addr),
        *("--master-port", str(nodes.master_port)),
        *("--max-restarts", "0"),
        *(prefixed if nodes.world_size > 1 else ()),
        *("-m", "rlvr_trainer", "train", "--run-dir", run_dir),
    ]


def child_environment(environ: Mapping[str, str], **added: str) -> dict[str, str]:
    """Return the environment without the operator's counts of pods, which mislead a rank."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in POD_COUNTS and not name.startswith("PET_")
    }
    kept.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(RANK_SHUTDOWN_S))
    return {**kept, "PYTHONUNBUFFERED": "1", **added}


def num_gpus() -> int:
    """Return the number of GPUs of this node, 0 without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _num_processes(value: str) -> int:
    if value in ("auto", "gpu", ""):
        return num_gpus() or 1
    if value == "cpu":
        return 1
    return _number({"PET_NPROC_PER_NODE": value}, "PET_NPROC_PER_NODE", 1)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name) or str(default)
    if not value.isdecimal():
        hint = (
            "the number of nodes is fixed, remove elasticPolicy" if ":" in value else "correct it"
        )
        raise ConfigError(f"{name} is {value!r}, which is not a number; {hint}")
    return int(value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
