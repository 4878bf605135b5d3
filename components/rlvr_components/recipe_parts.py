"""The part of a recipe that a step depends on, as a recipe of its own.

Kubeflow reuses a step's outputs when its inputs are the same. A step that got the whole recipe
would run again for a learning rate that it never reads.
"""

from __future__ import annotations

import hashlib
from typing import Any

from rlvr_trainer.data.sources import read_raw
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.recipe_file import parse_recipe
from rlvr_trainer.tasks import Split


def data_recipe(recipe: Recipe) -> Recipe:
    """What the prepared data depend on.

    A task of one's own that brings its rows may read any field, and gets them all.
    """
    if ":" in recipe.task and not recipe.data.train:
        return recipe
    sampling, training = {"max_completion_tokens"}, set[str]()
    if recipe.data.repeat_to_batch:
        sampling.add("num_generations")
        training = {"per_device_batch_size", "gradient_accumulation_steps"}
    return _part(
        recipe,
        "data",
        seed=True,
        task=True,
        data=True,
        prompt=True,
        rewards=True,
        model={"name", "revision", "context_length"},
        sampling=sampling,
        training=training,
        evaluation={"shots", "max_completion_tokens"},
    )


def base_recipe(recipe: Recipe) -> Recipe:
    """What the evaluation of the base model depends on, beside the data."""
    return _part(
        recipe,
        "base",
        seed=True,
        data={"num_exemplars"},
        prompt=True,
        model=True,
        quantization=True,
        sampling={"max_completion_tokens": recipe.evaluation_max_completion_tokens},
        shared_prefix=True,
        evaluation=True,
    )


def data_identity(recipe: Recipe) -> str:
    """Sixteen hex digits of the files that the recipe names; rows of a task are in the image.

    Raises DataError and ConfigError when they cannot be read.
    """
    digest = hashlib.sha256()
    sources: dict[Split, str] = {"train": recipe.data.train, "test": recipe.data.test}
    for split, source in sources.items():
        digest.update(f"{split} {source}\n".encode())
        if source and not source.startswith("hub://"):  # which names a revision
            digest.update(read_raw(source, split))
    return digest.hexdigest()[:16]


def _part(recipe: Recipe, name: str, **wanted: bool | set[str] | dict[str, Any]) -> Recipe:
    """The recipe's fields (True: all of a section) or these values, and the defaults elsewhere."""
    tree: dict[str, Any] = {"name": name}
    for field, what in wanted.items():
        value = getattr(recipe, field)
        if isinstance(what, set):
            tree[field] = value.model_dump(include=what)
        else:
            tree[field] = value if what is True else what
    return parse_recipe(tree, origin=f"the {name} part of {recipe.name}")
