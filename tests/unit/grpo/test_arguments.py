from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from trl import GRPOConfig

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.grpo import trl_refusals
from rlvr_trainer.grpo.arguments import checkpointing_argument, grpo_config, lora_config
from rlvr_trainer.grpo.deepspeed_config import zero_config
from rlvr_trainer.recipe.reader import load_recipe, shipped_recipes

SHIPPED = shipped_recipes()


def test_the_published_recipe_reaches_trl_unchanged(tmp_path: Path) -> None:
    recipe = load_recipe("gsm8k", ["model.dtype=fp32"])
    config = grpo_config(recipe, tmp_path)
    assert (config.beta, config.loss_type, config.temperature) == (0.04, "bnpo", 1.0)
    assert (config.learning_rate, config.num_train_epochs) == (1.84e-4, 2)
    assert config.get_warmup_steps(100) == 10
    assert config.generation_batch_size == 32
    assert config.max_completion_length == 256
    assert config.reward_weights == [1.0, 1.0]
    lora = lora_config(recipe.lora)
    assert (lora.r, lora.lora_alpha, lora.task_type) == (16, 16, "CAUSAL_LM")


def test_nothing_deprecated_is_asked_of_transformers(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    config = grpo_config(
        load_recipe("arithmetic", ["training.gradient_checkpointing=true"]), tmp_path
    )

    assert config.gradient_checkpointing, "TRL reads the old name"
    assert not [warning for warning in recwarn if "deprecated" in str(warning.message)]


@dataclass
class ArgumentsOfTransformers517:
    """The fields that matter of transformers 5.17's TrainingArguments."""

    gradient_checkpointing: bool = False


def test_checkpointing_has_the_name_that_the_installed_transformers_knows(tmp_path: Path) -> None:
    assert checkpointing_argument(ArgumentsOfTransformers517) == "gradient_checkpointing"
    config = GRPOConfig(str(tmp_path), use_cpu=True, **{checkpointing_argument(GRPOConfig): False})
    assert not config.gradient_checkpointing


def test_any_other_option_of_trl_passes_through(tmp_path: Path) -> None:
    recipe = load_recipe(
        "arithmetic", ["grpo.entropy_coef=0.01", "grpo.importance_sampling_level=sequence"]
    )
    config = grpo_config(recipe, tmp_path)
    assert config.entropy_coef == 0.01
    assert config.importance_sampling_level == "sequence"


def test_vllm_has_the_same_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_refusals, "find_spec", lambda name: name)
    recipe = load_recipe("arithmetic", ["grpo.use_vllm=true"])
    config = grpo_config(recipe, tmp_path)
    assert config.use_vllm
    assert config.generation_kwargs == {"stop": ["\nQuestion:"]}


def test_vllm_ends_a_chat_by_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_refusals, "find_spec", lambda name: name)
    recipe = load_recipe("arithmetic-chat", ["grpo.use_vllm=true"])
    assert grpo_config(recipe, tmp_path, {7, 2}).generation_kwargs == {"stop_token_ids": [2, 7]}


def test_vllm_that_is_not_installed_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trl_refusals, "find_spec", lambda name: None)
    recipe = load_recipe("arithmetic", ["grpo.use_vllm=true"])
    with pytest.raises(ConfigError, match="pip install vllm"):
        grpo_config(recipe, tmp_path)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 30, 64, 1000, 999_983])
@pytest.mark.parametrize(("ratio", "share"), [(0.0, 0), (0.5, 0.5), (1.0, 1)])
def test_a_warm_up_is_a_share_of_the_steps(
    ratio: float, share: float, num_steps: int, tmp_path: Path
) -> None:
    recipe = load_recipe("arithmetic", [f"training.warmup_ratio={ratio}"])
    assert grpo_config(recipe, tmp_path).get_warmup_steps(num_steps) == math.ceil(share * num_steps)


def test_arguments_that_trl_refuses_are_a_configuration_error(tmp_path: Path) -> None:
    recipe = load_recipe("arithmetic", ["grpo.generation_batch_size=9"])
    with pytest.raises(ConfigError, match="TRL refuses the recipe"):
        grpo_config(recipe, tmp_path)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_is_configured_from_the_recipe(stage: int) -> None:
    config = zero_config(stage, bf16=True)
    assert config["zero_optimization"]["stage"] == stage
    assert config["bf16"]["enabled"]
    assert ("stage3_gather_16bit_weights_on_model_save" in config["zero_optimization"]) == (
        stage == 3
    )
