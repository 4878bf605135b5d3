"""Check that a recipe fits its model, before anything is evaluated."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.models.facts import EMBEDDED_FACTS, ModelFacts, facts_in
from rlvr_trainer.models.locate import find_embedded
from rlvr_trainer.recipe.schema import EMBEDDED_PREFIX, ModelSection, Recipe
from rlvr_trainer.recipe.suggest import did_you_mean


def check_local_model(recipe: Recipe) -> None:
    """Check the recipe against its model if the model's files are on this machine.

    Nothing is downloaded or loaded. Raises ConfigError.
    """
    facts = local_facts(recipe.model)
    if facts is not None:
        check_fit(recipe, facts)


def check_fit(recipe: Recipe, facts: ModelFacts) -> None:
    """Raise ConfigError if the recipe does not fit the model."""
    name, context = recipe.model.name, recipe.model.context_length
    if facts.own_code_of is not None and not _is_known_to_transformers(facts.own_code_of):
        raise ConfigError(own_code_message(name))
    if facts.num_positions is not None and context > facts.num_positions:
        raise ConfigError(
            f"model.context_length = {context}, but {name} has {facts.num_positions} positions; "
            f"lower it to {facts.num_positions}"
        )
    tokens, rows = facts.num_tokens, facts.num_embeddings
    if tokens is not None and rows is not None and tokens > rows:
        raise ConfigError(
            f"the tokenizer of {name} has ids up to {tokens - 1}, but the model's embedding "
            f"has {rows} rows; use the tokenizer that the model was trained with, or enlarge the "
            "embedding (resize_token_embeddings) and save the model again"
        )
    if recipe.lora and facts.linear_layers is not None:
        _check_targets(recipe.lora.target_modules, facts.linear_layers, name)


def own_code_message(name: str) -> str:
    """Return the message for a model that transformers does not implement."""
    return (
        f"{name} has its own code (auto_map in its config.json), which is not run; use a "
        "model that transformers implements, or save this one in such a format"
    )


def _check_targets(targets: tuple[str, ...], layers: frozenset[str], name: str) -> None:
    """Raise ConfigError for a target that is not the end of a layer's name (PEFT's rule)."""
    unknown = [
        target
        for target in targets
        if not any(layer == target or layer.endswith(f".{target}") for layer in layers)
    ]
    if unknown:
        # repeated ones: neither the embedding nor the head
        known = sorted(
            {layer.rpartition(".")[2] for layer in layers if re.search(r"\.\d+\.", layer)}
        )
        raise ConfigError(
            f"lora.target_modules names {', '.join(unknown)}, but {name} has no such linear "
            f"layers{did_you_mean(unknown[0], known)}; choose from {', '.join(known)}"
        )


def local_facts(model: ModelSection) -> ModelFacts | None:
    """Return what the model's files say; None if they are not on this machine."""
    if model.name.startswith(EMBEDDED_PREFIX):
        return EMBEDDED_FACTS[find_embedded(model.name).name]
    if model.name.startswith("s3://"):
        return None
    folder = _cached(model) if model.is_hub_id else Path(model.name).expanduser()
    return facts_in(folder) if folder and (folder / "config.json").is_file() else None


def _cached(model: ModelSection) -> Path | None:
    """Return the cached folder of a hub model."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    return Path(config).parent if isinstance(config, str) else None


def _is_known_to_transformers(model_type: str) -> bool:
    """Return True if transformers has a folder for the type; importing it takes seconds."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return True
    models = Path(spec.submodule_search_locations[0], "models")
    return (models / re.sub(r"\W", "_", model_type)).is_dir()
