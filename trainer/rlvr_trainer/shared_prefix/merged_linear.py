"""Linear layers of a training on a CPU: one multiplication for a weight and its adapters.

PEFT multiplies by a weight and then twice by thin matrices, scales and adds. On a CPU these passes
over activations take as long as half of the weight's multiplication. Here the adapter is added to
the weight, which is small beside the activations, and multiplied with it. All is done in float32,
for a bfloat16 model too: CPUs without AMX multiply that two to eight times as fast.
"""

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
    """Let the linear layers of a transformers model on a CPU multiply so, but for its head.

    The layers get another class, for good: one that is recomputed in a backward pass must multiply
    as in its forward. What cannot be served (a weight or a bias that is trained or sharded, an
    adapter that is more than a product, a hook on what is passed over) goes on as before.
    """
    of_head = set(model.get_output_embeddings().modules())
    for module in model.modules():
        if module in of_head:
            continue
        if type(module) is LoraLinear:
            module.__class__ = MergedLoraLinear
        elif type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.__class__ = Float32Linear


class MergedLoraLinear(LoraLinear):
    """PEFT's LoRA layer with one multiplication."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, in) → (…, out)."""
        if not args and not kwargs and self._can_merge(x):
            try:
                return _multiply(x, self.base_layer, active_adapters(self))
            except CannotMerge:
                pass
        out: Tensor = super().forward(x, *args, **kwargs)
        return out

    def _can_merge(self, x: Tensor) -> bool:
        factors = (*self.lora_A.values(), *self.lora_B.values())
        return (
            type(self.base_layer) in (nn.Linear, Float32Linear)
            and _is_served(x, self.base_layer)
            and not any(map(_is_hooked, (self.base_layer, *factors)))
        )


class Float32Linear(nn.Linear):
    """A layer with bfloat16 weights that multiplies in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return _multiply(x, self, []) if _is_served(x, self) else super().forward(x)


def _is_served(x: Tensor, base: nn.Linear) -> bool:
    dtypes = (x.dtype, base.weight.dtype, result_dtype(x))
    return (
        is_cpu(x.device)
        and all(map(multiplies_in_float32, dtypes))
        and not any(p.requires_grad or hasattr(p, "ds_id") for p in base.parameters())
    )


def _is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says: ZeRO-3, FSDP, offloading."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


def _multiply(x: Tensor, base: nn.Linear, adapters: list[Adapter]) -> Tensor:
    factors = [factor for adapter in adapters for factor in (adapter.down, adapter.up)]
    scalings = tuple(adapter.scaling for adapter in adapters)
    out: Tensor = _MergedMultiplication.apply(x, base.weight, base.bias, scalings, *factors)
    return out


class _MergedMultiplication(torch.autograd.Function):
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
        of_x = None
        of_factors: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            g = grad.reshape(-1, grad.shape[-1]).float()
            if ctx.needs_input_grad[0]:
                # Again: kept from the forward, all of them are a second model.
                merged = with_adapters(weight.float(), adapters)
                of_x = (g @ merged).view(x.shape).to(x.dtype)
            rows = x.reshape(-1, x.shape[-1]).float()
            for adapter in adapters:
                down, up = adapter.down.float(), adapter.up.float()
                of_down, of_up = (g @ up).t() @ rows, g.t() @ (rows @ down.t())
                of_factors += [
                    of_down.mul_(adapter.scaling).to(adapter.down.dtype),
                    of_up.mul_(adapter.scaling).to(adapter.up.dtype),
                ]
        return of_x, None, None, None, *of_factors


def _adapters(scalings: tuple[float, ...], factors: Any) -> list[Adapter]:
    pairs = zip(factors[::2], factors[1::2], strict=True)
    return [Adapter(down, up, s) for (down, up), s in zip(pairs, scalings, strict=True)]
