"""Read the facts about a model that a recipe must fit from its files: no torch, no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model; None if unknown."""

    linear_layers: frozenset[str] | None = None
    """Full names of the modules that can get an adapter."""
    num_positions: int | None = None
    """Tokens of the longest sequence."""
    num_embeddings: int | None = None
    """Rows of the input embedding."""
    num_tokens: int | None = None
    """The tokenizer's largest id plus 1."""
    own_code_of: str | None = None
    """The model type, if it is implemented in files beside the weights."""


def _llama_layers(num_layers: int) -> frozenset[str]:
    attention = (f"self_attn.{name}_proj" for name in ("q", "k", "v", "o"))
    blocks = [*attention, *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))]
    return frozenset(f"model.layers.{i}.{block}" for i in range(num_layers) for block in blocks)


EMBEDDED_FACTS = {
    "smollm2-135m-instruct": ModelFacts(
        linear_layers=_llama_layers(30),
        num_positions=8192,
        num_embeddings=49152,
        num_tokens=49152,
    )
}
"""Facts of the embedded models, known without a conversion."""


def facts_in(folder: Path) -> ModelFacts:
    """Return the facts of a saved model; None for what cannot be read."""
    config = _json(folder / "config.json")
    nested = config.get("text_config")
    text: dict[str, Any] = nested if isinstance(nested, dict) else config
    return ModelFacts(
        linear_layers=_linear_layers(folder),
        num_positions=num_positions(text),
        num_embeddings=text.get("vocab_size"),
        num_tokens=_num_tokens(_json(folder / "tokenizer.json")),
        own_code_of=config.get("model_type", "") if "auto_map" in config else None,
    )


def num_positions(config: dict[str, Any]) -> int | None:
    """Return the longest sequence of a configuration, scaled by RoPE's factor.

    A model with positions without limit declares none.
    """
    declared = config.get("max_position_embeddings") or config.get("n_positions")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    factor = rope.get("factor") or 1
    return int(declared * factor) if declared and declared > 0 else None


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        tree = json.loads(path.read_text("utf-8"))
        if isinstance(tree, dict):
            return tree
    return {}


def _linear_layers(folder: Path) -> frozenset[str] | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        names = {name for path in folder.glob("*.safetensors") for name in _matrices(path)}
        return frozenset(names) or None
    return None


def _matrices(path: Path) -> Iterator[str]:
    """Yield the modules that have a two-dimensional tensor in a safetensors file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for name, tensor in header.items():
        if name != "__metadata__" and len(tensor["shape"]) == 2:
            yield name.rpartition(".")[0]


def _num_tokens(tokenizer: dict[str, Any]) -> int | None:
    with suppress(KeyError, TypeError, ValueError):
        vocabulary = tokenizer["model"]["vocab"]
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        added = [token["id"] for token in tokenizer.get("added_tokens") or ()]
        return 1 + int(max(*ids, *added))
    return None
