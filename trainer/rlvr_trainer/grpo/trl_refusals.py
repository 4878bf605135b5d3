"""Find the options that TRL refuses, before anything is evaluated."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe

_FREE = frozenset(
    {
        *(
            "beta",
            "delta",
            "epsilon",
            "epsilon_high",
            "entropy_coef",
            "loss_type",
            "num_iterations",
        ),
        *("importance_sampling_level", "mask_truncated_completions", "scale_rewards"),
        *("top_entropy_quantile", "optim", "adam_beta1", "adam_beta2", "adam_epsilon"),
        *("use_vllm", "vllm_mode", "vllm_gpu_memory_utilization"),
    }
)
"""Options whose value is checked when a recipe is read, and which fit every other option.

An option that is missing here costs the seconds that importing TRL takes, never an error.
"""

_OF_MACHINE = ("use_vllm", "tf32")
"""Options that are refused on a machine without vLLM or without a GPU."""


def check_trl_options(recipe: Recipe, world_size: int, *, is_here: bool) -> None:
    """Raise ConfigError for options that TRL refuses, if TRL is installed here.

    `is_here` is False if another machine trains, which may have vLLM and another GPU.
    """
    if is_here:
        check_vllm(recipe)
    if _FREE.issuperset(recipe.grpo) or find_spec("trl") is None:
        return
    from rlvr_trainer.grpo.arguments import grpo_config

    elsewhere = () if is_here else _OF_MACHINE
    options = {name: value for name, value in recipe.grpo.items() if name not in elsewhere}
    training = recipe.training
    batch_size = training.per_device_batch_size * world_size
    together = recipe.model_copy(
        update={
            "grpo": {**options, "use_cpu": True},
            "training": training.model_copy(update={"per_device_batch_size": batch_size}),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        grpo_config(together, Path(folder))


def check_vllm(recipe: Recipe) -> None:
    """Raise ConfigError if the recipe generates with vLLM, which is not installed."""
    if recipe.grpo.get("use_vllm") and find_spec("vllm") is None:
        raise ConfigError(
            "grpo.use_vllm is true and vllm is not installed; pip install vllm, or leave it out "
            "to generate without vLLM"
        )
