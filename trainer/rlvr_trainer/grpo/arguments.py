"""Translate a recipe to TRL's and PEFT's own configuration."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import GRPOConfig

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.completions import stop_texts
from rlvr_trainer.grpo.deepspeed_config import zero_config
from rlvr_trainer.grpo.trl_refusals import check_vllm
from rlvr_trainer.recipe.schema import LoraSection, Recipe


def grpo_config(recipe: Recipe, output_dir: Path, end_of_turn: Collection[int] = ()) -> GRPOConfig:
    """Return the arguments of GRPOTrainer; the recipe's `grpo` mapping is passed on unchanged.

    `end_of_turn` are tokens that end a completion beside the model's own.

    Call it before the model is loaded: with ZeRO-3 it also tells transformers to shard models while
    loading. Raises ConfigError.
    """
    check_vllm(recipe)
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
        # below 1 a share of the steps, otherwise their number
        "warmup_steps": min(training.warmup_ratio, math.nextafter(1.0, 0.0)),
        "lr_scheduler_type": training.lr_scheduler,
        "max_grad_norm": training.max_grad_norm,
        "weight_decay": training.weight_decay,
        checkpointing_argument(GRPOConfig): training.gradient_checkpointing,
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
        arguments["generation_kwargs"] = _vllm_options(recipe, end_of_turn)
    try:
        return GRPOConfig(**(arguments | recipe.grpo))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses the recipe: {error}") from error


def checkpointing_argument(config: type) -> str:
    """Return the field of `config` that turns on checkpointing; transformers 5.23 renamed it."""
    new = "activation_checkpointing"
    return new if new in {field.name for field in fields(config)} else "gradient_checkpointing"


def _vllm_options(recipe: Recipe, end_of_turn: Collection[int]) -> dict[str, Any]:
    """Return vLLM's options that TRL has no setting for."""
    options: dict[str, Any] = {}
    if stop := stop_texts(recipe.prompt.stop):
        options["stop"] = list(stop)
    if end_of_turn:
        options["stop_token_ids"] = sorted(end_of_turn)
    return options


def lora_config(lora: LoraSection) -> LoraConfig:
    """Return PEFT's configuration of the adapter."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )


def world_size() -> int:
    """Return the number of processes that train together, from torchrun's WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))
