"""Compute the batch that all processes of a training generate together."""

from __future__ import annotations

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe


def batch_of(recipe: Recipe, world_size: int) -> int:
    """Return the completions that all processes together generate at a time, as TRL counts them.

    Raises ConfigError if they are not whole batches of every process and whole groups.
    """
    device = recipe.training.per_device_batch_size
    steps = recipe.grpo.get("steps_per_generation", recipe.training.gradient_accumulation_steps)
    batch = int(recipe.grpo.get("generation_batch_size", device * world_size * steps))
    group = recipe.sampling.num_generations
    if batch % (device * world_size):
        raise ConfigError(
            f"grpo.generation_batch_size is {batch}, and {world_size} processes of "
            f"{device} completions take a multiple of {device * world_size}; leave it out, or "
            "change training.per_device_batch_size, or the number of nodes or GPUs"
        )
    if batch % group:
        raise ConfigError(
            f"{world_size} processes generate {batch} completions together, which are not "
            f"whole groups of sampling.num_generations = {group}; change "
            "training.per_device_batch_size, or the number of nodes or GPUs"
        )
    return batch
