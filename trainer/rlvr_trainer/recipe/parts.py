"""Reduce a recipe to the fields that a step depends on.

A step's outputs are reused when its inputs are the same. A step that got the whole recipe would
run again for a learning rate that it never reads. A part is the recipe without the fields that the
step does not read: a field missing from these lists costs a run of a step, never a result.
"""

from __future__ import annotations

from typing import Any

from rlvr_trainer.phases import Phase
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe

_BATCH: Any = {
    "sampling": {"num_generations"},
    "training": {"per_device_batch_size", "gradient_accumulation_steps"},
}
"""Read by the preparation only where rows are repeated to fill a batch."""

_OPTIMISATION = {
    *("learning_rate", "num_epochs", "max_steps", "warmup_ratio", "lr_scheduler"),
    *("max_grad_norm", "weight_decay", "gradient_checkpointing", "zero_stage", "save_steps"),
    *("keep_checkpoints", "validation_steps", "num_validation_rows"),
}
_DRAWING = {"temperature", "top_p", "top_k", "min_p"}
_WEIGHTS = {"__all__": {"weight"}}

_UNREAD_BY_PREPARATION: dict[str, Any] = {
    "description": True,
    "lora": True,
    "quantization": True,
    "grpo": True,
    "shared_prefix": True,
    "rewards": _WEIGHTS,
    "model": {"dtype"},
    "sampling": _DRAWING,
    "training": {*_OPTIMISATION, "max_verifier_failures"},
    "evaluation": {"num_rows", "batch_size", "pass_at_k"},
}
_UNREAD_BY_EVALUATION: dict[str, Any] = {
    "description": True,
    "task": True,
    "grpo": True,
    "rewards": _WEIGHTS,
    # the prepared rows are an input of their own; `num_exemplars` is compared with the shots
    "data": {
        *("train", "test", "test_fraction", "validation_fraction", "num_train_rows"),
        *("num_test_rows", "select", "repeat_to_batch", "max_quarantined_fraction"),
        "columns",
    },
    "sampling": {*_DRAWING, *_BATCH["sampling"]},
    "training": {*_OPTIMISATION, *_BATCH["training"]},
}
_UNREAD_BY_TRAINING: dict[str, Any] = {
    "description": True,
    "evaluation": {"shots", "num_rows", "pass_at_k", "accept_attacks"},
}


def recipe_part(recipe: Recipe, step: Phase) -> Recipe:
    """Return the recipe with defaults in the fields that the step does not read."""
    match step:
        case "prepare":
            if ":" in recipe.task and not recipe.data.train:
                return recipe  # a user's task may make its rows from any field
            unread = dict(_UNREAD_BY_PREPARATION)
            if not recipe.data.repeat_to_batch:
                unread |= {section: unread[section] | fields for section, fields in _BATCH.items()}
        case "evaluate-base":
            unread = {**_UNREAD_BY_EVALUATION, "lora": True}
        case "evaluate-trained":
            unread = _UNREAD_BY_EVALUATION
        case "train":
            unread = _UNREAD_BY_TRAINING
        case "report":
            return recipe
    tree = recipe.model_dump(exclude=unread) | {"name": step}
    if step.startswith("evaluate"):
        # only one of the lengths counts; the other must not be refused
        tree["sampling"]["max_completion_tokens"] = recipe.evaluation_max_completion_tokens
        tree["evaluation"]["max_completion_tokens"] = None
    return parse_recipe(tree, origin=f"the part of {recipe.name} for {step}")
