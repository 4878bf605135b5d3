"""Evaluate on several nodes of a job, with a random model and launch's real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr_trainer import api
from rlvr_trainer.data import load_rows
from rlvr_trainer.evaluation.outcome import read_samples
from rlvr_trainer.evaluation.shards import Shard, batches, join
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe


@pytest.fixture
def recipe(tiny_model_dir: Path) -> Recipe:
    return load_recipe(
        "arithmetic",
        [
            f"model.name={tiny_model_dir}",
            "data.num_train_rows=60",
            "data.num_test_rows=10",
            "evaluation.batch_size=4",
            "evaluation.shots=[0, 1]",
            "evaluation.max_completion_tokens=8",
            "evaluation.pass_at_k={num_samples: 2, k: [1]}",
        ],
    )


def start_node(run_dir: Path, rank: int, *arguments: str) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "rlvr_trainer", "launch", "--run", str(run_dir), "--"),
        *(sys.executable, "-m", "rlvr_trainer", "evaluate", "--label", "before", *arguments),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PET_NNODES": "2",
        "PET_NODE_RANK": str(rank),
        "MASTER_ADDR": "localhost",
        "RLVR_TERMINATION_LOG": str(run_dir / f"end-{rank}.json"),
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_nodes_of_two_processes_write_what_one_process_writes(
    recipe: Recipe, tmp_path: Path
) -> None:
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    api.prepare(recipe, run_dir / "data")
    (run_dir / "recipe.json").write_text(recipe.model_dump_json())
    rows = load_rows(run_dir / "data", "test")

    first = start_node(run_dir, 0, "--shards-per-node", "2")
    second = start_node(run_dir, 1, "--shards-per-node", "2")
    api.evaluate(recipe, run_dir / "data", whole, label="before")

    for node in (second, first):
        out, _ = node.communicate(timeout=300)
        assert node.returncode == 0, out
    parts = [read_samples(run_dir / shard.key) for shard in Shard(0, 4).all]
    assert all(parts)
    expected = read_samples(whole / "samples.jsonl")
    assert join(parts, batches(recipe, rows)) == expected
    # the random model draws different completions
    assert len({sample["completion"] for sample in expected if not sample["greedy"]}) > 10


def test_a_part_that_fails_says_why_and_one_that_was_sent_is_not_done_again(
    recipe: Recipe, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "recipe.json").write_text(recipe.model_dump_json())
    sent = run_dir / Shard(1, 2).key
    sent.parent.mkdir()
    sent.write_text("")

    second = start_node(run_dir, 1)
    assert second.communicate(timeout=120)[0].startswith(f"{Shard(1, 2).key} is there already")
    assert second.returncode == 0

    first = start_node(run_dir, 0)
    first.communicate(timeout=120)
    assert first.returncode == 3
    assert (
        "does not hold prepared data" in json.loads((run_dir / "end-0.json").read_text())["cause"]
    )
