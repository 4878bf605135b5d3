"""Read the facts about a model that a recipe must fit from its files: no torch, no network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
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
    chat_template: str | None = None
    """Jinja; empty if the model has none."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """The tokenizer's special tokens by name, such as `eos_token`."""


def _llama_layers(num_layers: int) -> frozenset[str]:
    attention = (f"self_attn.{name}_proj" for name in ("q", "k", "v", "o"))
    blocks = [*attention, *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))]
    return frozenset(f"model.layers.{i}.{block}" for i in range(num_layers) for block in blocks)


_SMOLLM2_TEMPLATE = """{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

EMBEDDED_FACTS = {
    "smollm2-135m-instruct": ModelFacts(
        linear_layers=_llama_layers(30),
        num_positions=8192,
        num_embeddings=49152,
        num_tokens=49152,
        chat_template=_SMOLLM2_TEMPLATE,
        special_tokens={
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|im_end|>",
        },
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
        chat_template=_chat_template(folder),
        special_tokens=_special_tokens(folder),
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


def _chat_template(folder: Path) -> str | None:
    with suppress(OSError, ValueError):
        return (folder / "chat_template.jinja").read_text("utf-8")
    if not (folder / "tokenizer_config.json").is_file():
        return None
    template = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(template, list):  # several by name, as older files have them
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default") or ""
    return str(template)


def _special_tokens(folder: Path) -> dict[str, str]:
    declared = {
        **_json(folder / "special_tokens_map.json"),
        **_json(folder / "tokenizer_config.json"),
    }
    tokens = {}
    for name, token in declared.items():
        text = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens
