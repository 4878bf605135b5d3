"""Linear layers for training on a CPU: one multiplication for a weight and its adapters.

PEFT multiplies by a weight and then twice by thin matrices, scales and adds. On a CPU these passes
over activations take half as long as the weight's multiplication, and longer than it with AMX. Here
the adapter is added to the weight, which is small beside the activations, before multiplying, in
float32 for a bfloat16 model too: CPUs without AMX multiply that two to eight times as fast. With
AMX a bfloat16 model keeps its dtype, in which the sum would round the adapter away; the thin
products are then added in place.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from rlvr_trainer.shared_prefix import cpu
from rlvr_trainer.shared_prefix.adapters import (
    Adapter,
    CannotMerge,
    active_adapters,
    merge_adapters,
)
from rlvr_trainer.shared_prefix.cpu.kernels import product_dtype, result_dtype


@contextmanager
def merged_linears(model: Any) -> Iterator[None]:
    """Let the linear layers of a transformers model multiply merged if it is on a CPU.

    The context must include the backward pass: a layer that is recomputed there must multiply as in
    its forward. It can be nested. The head keeps its own multiplication, and so does a layer that
    cannot be merged: its weight or bias is trained or sharded, its adapter is more than a product,
    or a hook is on a module that merging would skip.
    """
    replaced = []
    if cpu.is_used(model.device):
        in_head = set(model.get_output_embeddings().modules())
        for module in model.modules():
            if module not in in_head and (merged := _merged_class(module)):
                replaced.append((module, type(module)))
                module.__class__ = merged
    try:
        yield
    finally:
        for module, plain in replaced:
            module.__class__ = plain


def _merged_class(module: nn.Module) -> type[nn.Module] | None:
    if type(module) is LoraLinear:
        return MergedLoraLinear
    if type(module) is nn.Linear and product_dtype(module.weight.dtype) != module.weight.dtype:
        return Float32Linear
    return None


class MergedLoraLinear(LoraLinear):
    """PEFT's LoRA layer with one multiplication, and with AMX the adapters' thin ones."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (…, in) to (…, out)."""
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
        """Map (…, in) to (…, out)."""
        return _multiply(x, self, []) if _is_served(x, self) else super().forward(x)


def _is_served(x: Tensor, base: nn.Linear) -> bool:
    dtypes = (x.dtype, base.weight.dtype, result_dtype(x))
    return (
        cpu.is_used(x.device)
        and all(dtype in (torch.float32, torch.bfloat16) for dtype in dtypes)
        and not any(p.requires_grad or hasattr(p, "ds_id") for p in base.parameters())
    )


def _is_hooked(module: nn.Module) -> bool:
    """Return True if calling the module does more than its class: ZeRO-3, FSDP, offloading."""
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
        dtype = result_dtype(x)
        ctx.scalings, ctx.dtype = scalings, product_dtype(dtype)
        with torch.autocast("cpu", enabled=False):
            merged, separate = merge_adapters(weight.to(ctx.dtype), _adapters(ctx, factors))
            x = x.to(ctx.dtype)
            out = functional.linear(x, merged, None if bias is None else bias.to(ctx.dtype))
            rows, sums = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
            for adapter in separate:
                sums.addmm_(rows @ adapter.down.t(), adapter.up.t(), alpha=adapter.scaling)
        return out.to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *factors = ctx.saved_tensors
        of_x = None
        of_factors: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            g = grad.reshape(-1, grad.shape[-1]).to(ctx.dtype)
            rows = x.reshape(-1, x.shape[-1]).to(ctx.dtype)
            adapters = _adapters(ctx, factors)
            of_rank = [g @ adapter.up for adapter in adapters]  # each (N, r)
            if ctx.needs_input_grad[0]:
                # Merged again: keeping all of them from the forward would be a second model.
                merged, separate = merge_adapters(weight.to(ctx.dtype), adapters)
                of_x = g @ merged
                for adapter, of_r in zip(separate, of_rank, strict=False):  # all of them or none
                    of_x.addmm_(of_r, adapter.down, alpha=adapter.scaling)
                of_x = of_x.view(x.shape).to(x.dtype)
            for adapter, of_r in zip(adapters, of_rank, strict=True):
                of_down = of_r.t() @ rows
                of_up = g.t() @ (rows @ adapter.down.t())
                of_factors += [of_down.mul_(adapter.scaling), of_up.mul_(adapter.scaling)]
        dtypes = [factor.dtype for factor in factors]
        return of_x, None, None, None, *map(Tensor.to, of_factors, dtypes)


def _adapters(ctx: Any, factors: Sequence[Tensor]) -> list[Adapter]:
    pairs = zip(factors[::2], factors[1::2], strict=True)
    return [
        Adapter(down.to(ctx.dtype), up.to(ctx.dtype), scaling)
        for (down, up), scaling in zip(pairs, ctx.scalings, strict=True)
    ]
