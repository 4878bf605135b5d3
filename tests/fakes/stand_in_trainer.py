"""A stand-in for the trainer in a container: the artifacts of `launch` without a model.

Called with the container's whole command: `… launch --run URI … [-- … evaluate --label LABEL …]`.
The base model is wrong on every row, the trained one right.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from rlvr_trainer.evaluation.outcome import sample_lines
from rlvr_trainer.evaluation.shards import Shard, batches, evaluated_rows
from rlvr_trainer.run_dir.layout import ADAPTER, DATA, METRICS, read_recipe
from rlvr_trainer.storage import Storage, open_storage


def main(arguments: list[str]) -> None:
    storage = open_storage(arguments[arguments.index("--run") + 1])
    if "--label" in arguments:
        evaluate(storage, arguments[arguments.index("--label") + 1])
    else:
        train(storage)


def evaluate(storage: Storage, label: str) -> None:
    """Write a sample of each row of the run directory's data."""
    recipe, is_right = read_recipe(storage), label == "after"
    with tempfile.TemporaryDirectory() as folder:
        storage.download_dir(DATA, Path(folder))
        rows = evaluated_rows(recipe, Path(folder))
    samples = [
        {
            "model": label,
            "shots": batch.num_shots,
            "id": row.id,
            "question": row.question,
            "answer": row.answer,
            "completion": "#### The final answer is 1",
            "extracted": "1",
            "format": True,
            "correct": is_right,
            "flexible": is_right,
            "num_tokens": 7,
            "sample": index,
            "greedy": not batch.temperature,
        }
        for batch in batches(recipe, rows)
        for row, index in batch.requests
    ]
    storage.write_bytes(Shard(0, 1).key, sample_lines(samples).encode())
    print(f"evaluated {len(samples)} completions")


def train(storage: Storage) -> None:
    """Write an adapter, where the environment says it, and two steps."""
    target = os.environ.get("RLVR_ADAPTER_URI", "")
    adapter = open_storage(target) if target else storage
    for name in ("adapter_config.json", "tokenizer.json"):
        adapter.write_bytes(name if target else f"{ADAPTER}/{name}", b"{}")
    numbers = {"reward": 0.5, "rewards/format/mean": 0.5, "step_time": 0.1, "loss": 0.1}
    events = [
        {"time": step, "event": "step", "step": step, "max_steps": 2, **numbers} for step in (1, 2)
    ]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    storage.write_bytes(METRICS, lines.encode())
    print("trained")


if __name__ == "__main__":
    main(sys.argv[1:])
