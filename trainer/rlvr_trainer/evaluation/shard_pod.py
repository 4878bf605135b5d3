"""Evaluate the shards of one pod of a job.

The samples of a shard are in the run directory before its process exits, so a pod that succeeded
has written them. The first node exits last: a PyTorchJob has succeeded when its master has, and
then deletes the workers' pods.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rlvr_trainer.evaluation.outcome import sample_lines
from rlvr_trainer.evaluation.shards import Shard
from rlvr_trainer.launch.operator_environment import num_gpus
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import DATA, METRICS
from rlvr_trainer.storage import Storage, open_storage
from rlvr_trainer.variables import (
    EVENTS_VARIABLE,
    NODE_RANK_VARIABLE,
    NUM_NODES_VARIABLE,
    RUN_URI_VARIABLE,
)

POLL_S = 2.0
SHARD_POLL_S = 0.2


def evaluate_on_node(
    recipe: Recipe,
    run_dir: Path,
    *,
    label: str,
    adapter: str = "",
    shard: Shard | None = None,
    shards_per_node: int = 1,
) -> int:
    """Evaluate one shard, or those of this node, upload their samples, and return the exit code.

    `adapter` is a folder or s3://…; shards that an earlier attempt has uploaded are skipped.
    Raises ConfigError, DataError, PlatformError.
    """
    storage = open_storage(os.environ.get(RUN_URI_VARIABLE) or run_dir)
    if shard is not None:
        _evaluate_shard(recipe, run_dir, storage, shard, label, adapter)
        return 0
    node_rank = int(os.environ.get(NODE_RANK_VARIABLE) or 0)
    num_nodes = int(os.environ.get(NUM_NODES_VARIABLE) or 1)
    shards = Shard(0, num_nodes * shards_per_node).all
    own = shards[node_rank * shards_per_node :][:shards_per_node]
    if shards_per_node == 1:
        _evaluate_shard(recipe, run_dir, storage, own[0], label, adapter)
    elif code := _evaluate_side_by_side(run_dir, own, label, adapter):
        return code
    if node_rank == 0:
        _wait_for(storage, shards)
    return 0


def _evaluate_shard(
    recipe: Recipe, run_dir: Path, storage: Storage, shard: Shard, label: str, adapter: str
) -> None:
    if storage.exists(shard.key):
        print(f"{shard.key} is there already", flush=True)
        return
    if shard.index == 0:  # one shard reports the progress
        os.environ.setdefault(EVENTS_VARIABLE, str(run_dir / METRICS))
    from rlvr_trainer.evaluation.evaluate_model import evaluate_shard
    from rlvr_trainer.models import local_folder

    adapter_dir = local_folder(adapter) if adapter else None
    samples = evaluate_shard(recipe, run_dir / DATA, shard, label=label, adapter_dir=adapter_dir)
    storage.write_bytes(shard.key, sample_lines(samples).encode())


def _evaluate_side_by_side(run_dir: Path, shards: Sequence[Shard], label: str, adapter: str) -> int:
    """Run a process for each shard, each with its own GPU if there are GPUs.

    The first one that fails ends the others; return its exit code. It has reported the reason.
    """
    gpus = _visible_gpus()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "rlvr_trainer", "evaluate", "--run-dir", str(run_dir)),
                *("--label", label, "--adapter", adapter, "--shard", shard.text),
            ],
            env={
                **os.environ,
                "RANK": str(i),  # for the name of the file with its termination cause
                **({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}),
            },
        )
        for i, shard in enumerate(shards)
    ]
    failed = _first_failure(processes)
    return failed if failed >= 0 else 128 - failed


def _first_failure(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all, or until one fails; then kill the others, which have nothing to save."""
    running = list(processes)
    try:
        while running:
            for process in list(running):
                code = process.poll()
                if code:
                    return code
                if code == 0:
                    running.remove(process)
            time.sleep(SHARD_POLL_S)
    finally:
        for process in running:
            process.kill()
            process.wait()
    return 0


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(num_gpus())]
    return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]


def _wait_for(storage: Storage, shards: Sequence[Shard]) -> None:
    """Wait until all shards are in the run directory; the job's deadline is the time-out."""
    missing = [shard for shard in shards if not storage.exists(shard.key)]
    while missing:
        time.sleep(POLL_S)
        missing = [shard for shard in missing if not storage.exists(shard.key)]
