"""The LoRA adapters of a linear layer, and its weight with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


@dataclass(frozen=True)
class Adapter:
    """The matrix that LoRA adds to a weight: `scaling` · `up` · `down`."""

    down: Tensor  # (r, in), PEFT's lora_A
    up: Tensor  # (out, r), PEFT's lora_B
    scaling: float


class CannotMerge(Exception):
    """The adapters of a layer cannot be added to its weight."""


def active_adapters(layer: LoraLayer) -> list[Adapter]:
    """Return the adapters that PEFT would add to the output of the base layer.

    Raises CannotMerge for an adapter that is more than a product of two matrices.
    """
    if layer.disable_adapters:
        if layer.merged:
            raise CannotMerge("adapters are merged and disabled, which only PEFT can undo")
        return []
    if layer.merged:
        return []
    adapters = []
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        down, up = layer.lora_A[name], layer.lora_B[name]
        dropout = layer.lora_dropout[name]
        drops = dropout.training and not isinstance(dropout, nn.Identity)
        if name in layer.lora_variant or up.bias is not None or drops:
            raise CannotMerge(f"the adapter {name} is more than B · A")
        adapters.append(Adapter(down.weight, up.weight, layer.scaling[name]))
    return adapters


def merge_adapters(weight: Tensor, adapters: Sequence[Adapter]) -> tuple[Tensor, Sequence[Adapter]]:
    """Add the adapters to `weight` (out, in), unless bfloat16 would round them away.

    Returns the weight, and the adapters that were not added.
    """
    if weight.dtype == torch.bfloat16:
        return weight, adapters
    for adapter in adapters:
        up, down = adapter.up.to(weight.dtype), adapter.down.to(weight.dtype)
        weight = torch.addmm(weight, up, down, alpha=adapter.scaling)
    return weight, []
