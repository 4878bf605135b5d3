"""How attention layers of transformers reach ours, and which models can be served."""

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
    """What travels to every attention layer as the keyword argument `shared_prefix`.

    A keyword argument is kept by both kinds of gradient checkpointing, so a layer recomputed in the
    backward pass sees the layout of its own forward.
    """

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query (1, H, N, D), key and value (1, KV, N, D) → (1, H, N, D)."""


def unsupported_reason(model: nn.Module) -> str | None:
    """One sentence on why `model`, bare or wrapped, cannot be served, or None."""
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
    """One sentence on why `model` as it is, in training, cannot be served, or None."""
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
    """Whether the active adapter does the same to every token, whatever the row looks like."""
    config: Any = model.active_peft_config
    return not (config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None))


def base_model(model: Any) -> Any:
    """The transformers model inside DDP, DeepSpeed, torch.compile and PEFT wrappers."""
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
    """Let attention of the model's kind, in every model, act on the argument `shared_prefix`.

    Without the argument it stays what it was. Its name stays too, since transformers decides by it,
    and it is never switched back: a layer recomputed after the forward must still find it.
    """
    name: str = model.config._attn_implementation
    plain = ALL_ATTENTION_FUNCTIONS.get(name)  # None for "eager", which is each model's own
    if not isinstance(plain, _Dispatch):
        AttentionInterface.register(name, _Dispatch(plain))


def packed_mask(device: torch.device) -> Tensor:
    """A mask of four dimensions, which transformers hands to the layers as it is, building none."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


class _Dispatch:
    """An attention function of transformers, and ours where it is called with `shared_prefix`."""

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
    """What the file of the module's class, or of one that it derives from, defines as eager."""
    files = (sys.modules[parent.__module__] for parent in type(module).__mro__)
    name = "eager_attention_forward"
    found: Callable[..., Any] = next(getattr(file, name) for file in files if hasattr(file, name))
    return found
