"""TRL's GRPOTrainer with checkpoints that are committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlvr_trainer import checkpoint
from rlvr_trainer.events import emit
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer


class RLVRTrainer(SharedPrefixGRPOTrainer):
    """GRPOTrainer whose checkpoints are written aside, verified and committed.

    `args.output_dir` is the staging directory; a committed checkpoint lies in `checkpoints`.
    """

    def __init__(self, *args: Any, recipe: Recipe, checkpoints: Path, **kwargs: Any) -> None:
        super().__init__(*args, shared_prefix=recipe.shared_prefix == "on", **kwargs)
        self.recipe = recipe
        self.checkpoints = checkpoints

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        step = self.state.global_step
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            committed = checkpoint.commit(
                Path(self.args.output_dir) / f"checkpoint-{step}",
                self.checkpoints,
                step=step,
                recipe_hash=self.recipe.hash,
                world_size=self.accelerator.num_processes,
            )
            checkpoint.prune(self.checkpoints, self.recipe.training.keep_checkpoints)
            emit("checkpoint", step=step, path=str(committed.path))
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None in a checkpoint: a model gets its card when it is published."""
