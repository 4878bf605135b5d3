"""How attention layers of transformers reach ours, and which models can be served."""

import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SUPPORTED_MODEL_TYPES = ("llama", "qwen2", "qwen3")
_PREFIX = "shared_prefix|"
_DROPOUT_IS_SHARED = "which a shared prefix would apply to all of its sequences alike."


class SharedAttention(Protocol):
    """What travels to every attention layer as the keyword argument `shared_prefix`.

    A keyword argument is kept by both kinds of gradient checkpointing, so a layer recomputed in the
    backward pass sees the layout of its own forward.
    """

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (1, H, N, D), key and value (1, KV, N, D) → (1, H, N, D)."""


def unsupported_reason(model: nn.Module) -> str | None:
    """One sentence on why `model` cannot be served, or None."""
    config = getattr(model, "config", None)  # a PEFT model's is that of the model inside
    kind = getattr(config, "model_type", None)
    if kind not in SUPPORTED_MODEL_TYPES:
        return f"The architecture {kind!r} is not one of {', '.join(SUPPORTED_MODEL_TYPES)}."
    assert config is not None
    if any(t != "full_attention" for t in getattr(config, "layer_types", None) or ()):
        return (
            "The model has layers with a sliding window, "
            "which counts positions that a packed row has moved."
        )
    if getattr(config, "attention_dropout", 0.0):
        return f"The model has attention dropout, {_DROPOUT_IS_SHARED}"
    for name, module in model.named_modules():
        if (
            type(module).__name__ == "Dropout"
            and getattr(module, "p", 0.0) > 0.0
            and module.training
        ):
            return f"The module {name} has dropout, {_DROPOUT_IS_SHARED}"
    return None


def enable(model: nn.Module) -> None:
    """Route the model's attention through ours, which needs the `shared_prefix` argument to act.

    Without it the attention stays what it was. It is never switched back: a layer recomputed after
    the forward must still find it.
    """
    config: Any = model.config
    original: str = config._attn_implementation
    if original.startswith(_PREFIX):
        return
    name = _PREFIX + original
    AttentionInterface.register(name, _dispatch(original))
    mask = ALL_MASK_ATTENTION_FUNCTIONS.get(original)
    AttentionMaskInterface.register(
        name, mask if mask is not None else ALL_MASK_ATTENTION_FUNCTIONS["eager"]
    )
    config._attn_implementation = name


def packed_mask(device: torch.device) -> Tensor:
    """A mask of four dimensions, which transformers hands to the layers as it is, building none."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def _dispatch(original: str) -> Callable[..., Any]:
    def attention(
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
        eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        plain = ALL_ATTENTION_FUNCTIONS.get_interface(original, eager)
        result: tuple[Tensor, Tensor | None] = plain(
            module, query, key, value, attention_mask, **kwargs
        )
        return result

    return attention
