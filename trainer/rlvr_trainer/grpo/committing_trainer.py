"""TRL's GRPOTrainer with committed checkpoints, from which it resumes exactly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from rlvr_trainer.recipe.trajectory import TRAJECTORY, Trajectory
from rlvr_trainer.run_dir import checkpoint, remote_checkpoint
from rlvr_trainer.run_dir.checkpoint import Files
from rlvr_trainer.run_dir.events import emit
from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer
from rlvr_trainer.storage import Storage, open_storage
from rlvr_trainer.storage.atomic_files import write_text
from rlvr_trainer.variables import RUN_URI_VARIABLE

DATA_HASH = "data.sha256"
"""File of a checkpoint: the hash of the rows that it was trained on."""

ROLLOUT = "rollout-{rank}-of-{world_size}.pt"
"""File of a checkpoint between two generations: the completions that a rank still trains on."""


class RLVRTrainer(SharedPrefixGRPOTrainer):
    """GRPOTrainer whose checkpoints are staged, hashed and committed.

    `args.output_dir` is the staging directory; committed checkpoints are in `checkpoints`.
    """

    _step: int
    """TRL's count of micro-batches, which decides when to generate."""
    _buffered_inputs: list[dict[str, Any]] | None

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
        is_described = self.accelerator.is_main_process or (
            uri and self.accelerator.is_local_main_process and staged.is_dir()
        )
        files = checkpoint.describe(staged) if is_described else {}
        where = self._upload(staged, files, open_storage(uri), step) if uri else None
        if self.accelerator.is_main_process:
            committed = checkpoint.commit(
                staged,
                self.checkpoints,
                step=step,
                world_size=self.accelerator.num_processes,
                files=files,
            )
            checkpoint.prune(self.checkpoints, self.recipe.training.keep_checkpoints)
            emit("checkpoint", step=step, path=where or str(committed.path))
        self.accelerator.wait_for_everyone()

    def _save_rng_state(self, output_dir: str) -> None:
        """Save this rank's random state and, between two generations, its completions.

        TRL does not save them: a resumed run would generate again, at the wrong place in the cycle.
        """
        super()._save_rng_state(output_dir)
        if self._step % (self.args.steps_per_generation * self.num_iterations):
            torch.save((self._step, self._buffered_inputs), self._rollout_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        # With another number of ranks, the rows are divided differently: generate again.
        if checkpoint and (rollout := self._rollout_file(checkpoint)).is_file():
            self._step, self._buffered_inputs = torch.load(
                rollout, map_location=self.accelerator.device, weights_only=True
            )

    def _rollout_file(self, folder: str) -> Path:
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        return Path(folder, ROLLOUT.format(rank=rank, world_size=world_size))

    def _upload(self, staged: Path, files: Files, storage: Storage, step: int) -> str:
        """Commit the files that all nodes staged on their disks to S3; return the URI."""
        folder = remote_checkpoint.upload(
            staged,
            files,
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
        """Disabled: publish writes the model card."""


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all ranks in order; without a process group, only this one's."""
    if not torch.distributed.is_initialized():
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
