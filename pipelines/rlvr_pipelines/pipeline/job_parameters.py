"""Turn a recipe and the command line's job options into parameters of the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe

OWN_PARAMETERS = {"num_nodes": "job_num_nodes", "gpus_per_node": "job_gpus_per_node"}
"""Setting of the platform → its field in the form."""


def recipe_parameter(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's fields that differ from their defaults, for people to read and edit."""
    tree = recipe.model_dump(mode="json", exclude_defaults=True)
    try:
        is_whole = parse_recipe(tree) == recipe
    except ConfigError:
        is_whole = False
    return tree if is_whole else recipe.model_dump(mode="json")


def job_parameters(
    *, place: str, namespace: str, storage: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the parameters that were chosen; the others keep the form's defaults.

    `settings` are the platform's, which override the namespace's ConfigMap, or SageMaker's.
    """
    chosen: dict[str, Any] = {"job_place": place}
    if place == "sagemaker":
        chosen |= {"storage_uri": storage} if storage else {}
        return {**chosen, "job_sagemaker": json.dumps(dict(settings), sort_keys=True)}
    if namespace:
        chosen["job_namespace"] = namespace
    if storage:
        chosen["storage_uri"] = storage
    chosen |= {OWN_PARAMETERS[key]: settings[key] for key in OWN_PARAMETERS if key in settings}
    others = {key: value for key, value in settings.items() if key not in OWN_PARAMETERS}
    if others:
        chosen["job_platform"] = json.dumps(others, sort_keys=True)
    return chosen
