"""Linear layers of a training on a CPU: one multiplication for a weight and its adapters.

PEFT multiplies by a weight and then twice by thin matrices, scales and adds. On a CPU these passes
over activations take as long as half of the weight's multiplication. Here the adapter is added to
the weight, which is small beside the activations, and multiplied with it. All is done in float32,
for a bfloat16 model too: CPUs without AMX multiply that two to eight times as fast.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from rlvr_trainer.shared_prefix.adapters import (
    Adapter,
    CannotMerge,
    active_adapters,
    with_adapters,
)
from rlvr_trainer.shared_prefix.kernels import is_cpu, multiplies_in_float32, result_dtype


def merge_linears(model: Any) -> None:
    """Let the linear layers of a transformers model on a CPU multiply so, for good.

    Layers recomputed in a backward pass must still find it. Only frozen weights are served; a
    layer that cannot be goes on as before, and the head of the model does.
    """
    head = model.get_output_embeddings()
    for module in model.modules():
        if module is head or "forward" in vars(module):
            continue
        if type(module) is LoraLinear:
            module.forward = MethodType(_adapted, module)
        elif type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.forward = MethodType(_plain, module)  # type: ignore[method-assign]


def _adapted(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.get_base_layer()
    if not args and not kwargs and type(base) is nn.Linear and _is_served(x, base.weight):
        try:
            return _multiply(x, base, active_adapters(layer))
        except CannotMerge:
            pass
    out: Tensor = type(layer).forward(layer, x, *args, **kwargs)
    return out


def _plain(layer: Any, x: Tensor) -> Tensor:
    if _is_served(x, layer.weight):
        return _multiply(x, layer, [])
    out: Tensor = type(layer).forward(layer, x)
    return out


def _is_served(x: Tensor, weight: Tensor) -> bool:
    is_whole = weight.dim() == 2 and not hasattr(weight, "ds_id")  # not ZeRO-3's part of one
    return (
        is_cpu(x.device)
        and is_whole
        and not weight.requires_grad
        and multiplies_in_float32(x.dtype)
        and multiplies_in_float32(weight.dtype)
    )


def _multiply(x: Tensor, base: nn.Linear, adapters: list[Adapter]) -> Tensor:
    factors = [factor for adapter in adapters for factor in (adapter.down, adapter.up)]
    scalings = tuple(adapter.scaling for adapter in adapters)
    out: Tensor = _MergedLinear.apply(x, base.weight, base.bias, scalings, *factors)
    return out


class _MergedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scalings: tuple[float, ...],
        *factors: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *factors)
        ctx.scalings = scalings
        dtype = result_dtype(x)
        with torch.autocast("cpu", enabled=False):
            merged = with_adapters(weight.float(), _adapters(scalings, factors))
            out = functional.linear(x.float(), merged, None if bias is None else bias.float())
        return out.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *factors = ctx.saved_tensors
        adapters = _adapters(ctx.scalings, factors)
        with torch.autocast("cpu", enabled=False):
            g = grad.flatten(0, -2).float()
            of_x = None
            if ctx.needs_input_grad[0]:
                merged = with_adapters(weight.float(), adapters)
                of_x = (g @ merged).view(x.shape).to(x.dtype)
            of_factors: list[Tensor] = []
            for adapter in adapters:
                rows = x.flatten(0, -2).float()
                down, up = adapter.down.float(), adapter.up.float()
                of_down = (g @ up).t() @ rows
                of_up = g.t() @ (rows @ down.t())
                of_factors += [
                    of_down.mul_(adapter.scaling).to(adapter.down.dtype),
                    of_up.mul_(adapter.scaling).to(adapter.up.dtype),
                ]
        return of_x, None, None, None, *of_factors


def _adapters(scalings: tuple[float, ...], factors: Any) -> list[Adapter]:
    pairs = zip(factors[::2], factors[1::2], strict=True)
    return [Adapter(down, up, s) for (down, up), s in zip(pairs, scalings, strict=True)]
