from __future__ import annotations

import sys

import pytest

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.grpo import trl_refusals
from rlvr_trainer.grpo.trl_refusals import check_trl_options
from rlvr_trainer.recipe.reader import load_recipe, shipped_recipes


def with_grpo(**options: object) -> list[str]:
    return [f"grpo.{name}={value}" for name, value in options.items()]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"generation_batch_size": 64, "steps_per_generation": 4}, "at the same time"),
        ({"auto_find_batch_size": "true"}, "auto_find_batch_size is not supported"),
        ({"vllm_importance_sampling_clip_min": 9}, "must be less than"),
        ({"load_best_model_at_end": "true"}, "requires the save and eval strategy to match"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor"),
    ],
)
@pytest.mark.parametrize("is_here", [True, False])
def test_what_trl_refuses_is_found_before_the_training(
    options: dict[str, object], complaint: str, is_here: bool
) -> None:
    recipe = load_recipe("arithmetic", with_grpo(**options))
    with pytest.raises(ConfigError, match=f"TRL refuses the recipe: .*{complaint}"):
        check_trl_options(recipe, 2, is_here=is_here)


def test_options_of_the_machine_that_trains_are_not_compared_with_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = load_recipe("arithmetic", with_grpo(use_vllm="true", tf32="true"))
    check_trl_options(recipe, 2, is_here=False)
    with pytest.raises(ConfigError, match="pip install vllm"):
        check_trl_options(recipe, 2, is_here=True)
    with pytest.raises(ConfigError, match="tf32 requires"):
        check_trl_options(load_recipe("arithmetic", ["grpo.tf32=true"]), 2, is_here=True)


def test_a_batch_of_all_processes_is_checked() -> None:
    """With one process, `steps_per_generation` 1 would not make whole groups of 16."""
    batch = "training={per_device_batch_size: 8, gradient_accumulation_steps: 2, max_steps: 9}"
    overrides = ["sampling.num_generations=16", batch, "grpo.steps_per_generation=1"]
    recipe = load_recipe("arithmetic", overrides)
    check_trl_options(recipe, 2, is_here=False)
    with pytest.raises(ConfigError, match="divisible by num_generations"):
        check_trl_options(recipe, 1, is_here=False)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_needs_no_import_of_trl(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rlvr_trainer.grpo.arguments", None)  # an import would fail
    check_trl_options(load_recipe(name), 1, is_here=True)


def test_without_trl_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_refusals, "find_spec", lambda name: None)
    check_trl_options(
        load_recipe("arithmetic", ["grpo.auto_find_batch_size=true"]), 1, is_here=True
    )
