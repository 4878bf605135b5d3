"""From a recipe to TRL's and PEFT's own configuration."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import GRPOConfig
from trl.import_utils import is_vllm_available

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.completions import stop_text
from rlvr_trainer.grpo.deepspeed_config import zero_config
from rlvr_trainer.recipe.schema import LoraSection, Recipe


def grpo_config(recipe: Recipe, output_dir: Path) -> GRPOConfig:
    """The arguments of GRPOTrainer; the recipe's `grpo` mapping is passed on as it is.

    Building it with ZeRO-3 also tells transformers to shard models while it loads them, so that it
    comes before the model. Raises ConfigError.
    """
    training, sampling = recipe.training, recipe.sampling
    bf16 = recipe.model.dtype == "bf16"
    arguments: dict[str, Any] = {
        "output_dir": str(output_dir),
        "seed": recipe.seed,
        "bf16": bf16,
        "use_cpu": not torch.cuda.is_available(),
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.num_epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": training.per_device_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        # a share of the steps below 1, and a number of them from there on
        "warmup_steps": min(training.warmup_ratio, math.nextafter(1.0, 0.0)),
        "lr_scheduler_type": training.lr_scheduler,
        "max_grad_norm": training.max_grad_norm,
        "weight_decay": training.weight_decay,
        "activation_checkpointing": training.gradient_checkpointing,
        "num_generations": sampling.num_generations,
        "max_completion_length": sampling.max_completion_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p or None,
        "reward_weights": [reward.weight for reward in recipe.rewards.values()],
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "eval_strategy": "no",  # TRL evaluates at the training temperature; ours is greedy
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if training.zero_stage and world_size() > 1:
        arguments["deepspeed"] = zero_config(training.zero_stage, bf16=bf16)
    if recipe.grpo.get("use_vllm"):
        arguments["generation_kwargs"] = _vllm_options(recipe)
    try:
        return GRPOConfig(**(arguments | recipe.grpo))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses the recipe: {error}") from error


def _vllm_options(recipe: Recipe) -> dict[str, Any]:
    """What vLLM is told beside TRL's own settings. Raises ConfigError where it cannot be used."""
    if not is_vllm_available():
        raise ConfigError(
            "grpo.use_vllm is true and vllm is not installed; pip install vllm, or leave it out "
            "and completions are drawn by us"
        )
    return {"stop": [stop_text(recipe.prompt.stop)]}


def lora_config(lora: LoraSection) -> LoraConfig:
    """PEFT's configuration of the adapter."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )


def world_size() -> int:
    """Processes that train together, as torchrun says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
