"""TRL's GRPOTrainer with checkpoints that are committed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from rlvr_trainer import checkpoint, remote_checkpoint
from rlvr_trainer.events import emit
from rlvr_trainer.files import write_text
from rlvr_trainer.remote_checkpoint import RUN_URI_VARIABLE
from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer
from rlvr_trainer.storage import Storage, open_storage
from rlvr_trainer.trajectory import TRAJECTORY, Trajectory

DATA_HASH = "data.sha256"
"""In a checkpoint: which rows it was trained on."""


class RLVRTrainer(SharedPrefixGRPOTrainer):
    """GRPOTrainer whose checkpoints are written aside, verified and committed.

    `args.output_dir` is the staging directory; a committed checkpoint lies in `checkpoints`.
    """

    def __init__(
        self, *args: Any, trajectory: Trajectory, data_hash: str, checkpoints: Path, **kwargs: Any
    ) -> None:
        share_prefix = trajectory.recipe.shared_prefix == "on"
        super().__init__(*args, shared_prefix=share_prefix, **kwargs)
        self.recipe, self.trajectory, self.data_hash = trajectory.recipe, trajectory, data_hash
        self.checkpoints = checkpoints

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        step = self.state.global_step
        super()._save_checkpoint(model, trial)
        staged = Path(self.args.output_dir) / f"checkpoint-{step}"
        if self.accelerator.is_main_process:
            write_text(staged / DATA_HASH, self.data_hash)
            write_text(staged / TRAJECTORY, self.trajectory.to_json())
        self.accelerator.wait_for_everyone()
        uri = os.environ.get(RUN_URI_VARIABLE)
        where = self._upload(staged, open_storage(uri), step) if uri else None
        if self.accelerator.is_main_process:
            committed = checkpoint.commit(
                staged,
                self.checkpoints,
                step=step,
                world_size=self.accelerator.num_processes,
            )
            checkpoint.prune(self.checkpoints, self.recipe.training.keep_checkpoints)
            emit("checkpoint", step=step, path=where or str(committed.path))
        self.accelerator.wait_for_everyone()

    def _upload(self, staged: Path, storage: Storage, step: int) -> str:
        """Commit to S3 what all nodes staged on their own disks, and return where."""
        folder = remote_checkpoint.upload(
            staged if self.accelerator.is_local_main_process else None,
            storage,
            gather_objects,
            rank=self.accelerator.process_index,
            step=step,
            world_size=self.accelerator.num_processes,
        )
        if self.accelerator.is_main_process:
            remote_checkpoint.prune(storage, self.recipe.training.keep_checkpoints)
        elif self.accelerator.is_local_main_process:
            shutil.rmtree(staged, ignore_errors=True)
        return f"{storage.uri}/{folder}"

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in a checkpoint: a model gets its card when it is published."""


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks, in their order; without a process group, this one's."""
    if not torch.distributed.is_initialized():
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
