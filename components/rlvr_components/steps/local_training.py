"""Train in a run directory on this machine, and read the numbers of its last step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rlvr_components.jobs import training_job
from rlvr_components.jobs.launching import launch
from rlvr_components.jobs.local_process import LocalBackend
from rlvr_trainer.launch.operator_environment import num_gpus
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import read_events
from rlvr_trainer.run_dir.layout import DATA, RECIPE
from rlvr_trainer.storage.atomic_files import write_text

METRICS = ("reward", "reward_std", "loss", "kl", "entropy", "completions/mean_length")


def train_locally(recipe: Recipe, run_dir: Path, data_dir: Path) -> None:
    """Write recipe and data to the run directory, and train there. Raises JobFailed."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / RECIPE, recipe.model_dump_json(indent=2) + "\n")
    replace_folder(data_dir, run_dir / DATA)
    launch(LocalBackend(), training_job(recipe, run_dir, os.environ, num_gpus=num_gpus()))


def last_numbers(events_file: Path) -> dict[str, float]:
    """Return the numbers of the last training step, by TRL's names."""
    steps = [event for event in read_events(events_file) if event["event"] == "step"]
    if not steps:
        return {}
    last = steps[-1]
    chosen = [name for name in last if name in METRICS or name.startswith("rewards/")]
    return {"steps": float(last["step"])} | {
        name: float(last[name]) for name in chosen if isinstance(last[name], int | float)
    }


def replace_folder(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, complete or not at all."""
    aside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
