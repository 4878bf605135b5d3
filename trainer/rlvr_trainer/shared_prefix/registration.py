"""Register shared-prefix attention with transformers, and check which models support it."""

import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SUPPORTED_MODEL_TYPES = ("llama", "qwen2", "qwen3")
_ROPES_BY_LENGTH = ("dynamic", "longrope")
_DROPOUT_IS_SHARED = "which a shared prefix would apply to all of its sequences alike."


class SharedAttention(Protocol):
    """The keyword argument `shared_prefix` of every attention layer.

    Both kinds of gradient checkpointing keep keyword arguments, so a layer that is recomputed in
    the backward pass uses the layout of its forward.
    """

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend from query (1, H, N, D) to key and value (1, KV, N, D); return (1, H, N, D)."""


def unsupported_reason(model: nn.Module) -> str | None:
    """Return a sentence on why `model`, bare or wrapped, cannot share prefixes, or None."""
    config: Any = getattr(base_model(model), "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in SUPPORTED_MODEL_TYPES:
        return f"The architecture {kind!r} is not one of {', '.join(SUPPORTED_MODEL_TYPES)}."
    if any(t != "full_attention" for t in getattr(config, "layer_types", None) or ()):
        return (
            "The model has layers with a sliding window, "
            "which counts positions that a packed row has moved."
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in _ROPES_BY_LENGTH:
        return f"The model's {rope} rope turns by the length of the whole row."
    for module in model.modules():
        if isinstance(module, PeftModel) and not _adapts_weights(module):
            return "The adapter puts tokens of its own before a prompt, or begins inside it."
    return None


def dropout_reason(model: nn.Module) -> str | None:
    """Return a sentence on why `model`'s dropout rules out shared prefixes, or None."""
    bare: Any = base_model(model)
    if bare.training and getattr(bare.config, "attention_dropout", 0.0):
        return f"The model has attention dropout, {_DROPOUT_IS_SHARED}"
    for name, module in bare.named_modules():
        if (
            type(module).__name__ == "Dropout"
            and getattr(module, "p", 0.0) > 0.0
            and module.training
        ):
            return f"The module {name} has dropout, {_DROPOUT_IS_SHARED}"
    return None


def _adapts_weights(model: PeftModel) -> bool:
    """Return True if the active adapter acts on every token alike, independently of the row."""
    config: Any = model.active_peft_config
    return not (config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None))


def base_model(model: Any) -> Any:
    """Return the transformers model inside DDP, DeepSpeed, torch.compile and PEFT wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif not hasattr(model, "get_output_embeddings") and isinstance(
            getattr(model, "module", None), nn.Module
        ):
            model = model.module
        else:
            return model


def enable(model: Any) -> None:
    """Make the model's attention function, in every model, accept the argument `shared_prefix`.

    Calls without the argument are unchanged. The function keeps its name, on which transformers
    depends, and stays registered, because layers may be recomputed after the forward.
    """
    name: str = model.config._attn_implementation
    plain = ALL_ATTENTION_FUNCTIONS.get(name)  # None for "eager", which is each model's own
    if not isinstance(plain, _Dispatch):
        AttentionInterface.register(name, _Dispatch(plain))


def packed_mask(device: torch.device) -> Tensor:
    """Return a mask of four dimensions, which transformers passes to the layers unchanged."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


class _Dispatch:
    """Call transformers' attention function, or with `shared_prefix` that object's."""

    def __init__(self, plain: Callable[..., Any] | None) -> None:
        self.plain = plain

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        shared_prefix: SharedAttention | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if shared_prefix is not None:
            out = shared_prefix.attend(module.layer_idx, query, key, value, kwargs["scaling"])
            return out.transpose(1, 2), None
        plain = self.plain or _eager_attention(module)
        result: tuple[Tensor, Tensor | None] = plain(
            module, query, key, value, attention_mask, **kwargs
        )
        return result


def _eager_attention(module: nn.Module) -> Callable[..., Any]:
    """Return the eager attention of the file that defines the module's class or a parent."""
    files = (sys.modules[parent.__module__] for parent in type(module).__mro__)
    name = "eager_attention_forward"
    function: Callable[..., Any] = next(getattr(f, name) for f in files if hasattr(f, name))
    return function
