"""A model's forward for generation on a CPU: adapters merged, projections fused.

A decode step multiplies every weight by a few tokens. Module by module it is hundreds of small
operations, most of them the adapters'; fused it is four multiplications per layer. They are in
float32, except that with AMX a bfloat16 model multiplies and attends in bfloat16; its adapters then
stay separate, because merging would round them away. Each token is a column of the activations: a
weight times 16 to 128 columns takes two thirds of the time of as many rows times its transpose if
the columns are whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from rlvr_trainer.shared_prefix.adapters import (
    Adapter,
    CannotMerge,
    active_adapters,
    merge_adapters,
)
from rlvr_trainer.shared_prefix.cpu.kernels import product_dtype
from rlvr_trainer.shared_prefix.cpu.merged_linear import Float32Linear
from rlvr_trainer.shared_prefix.registration import SharedAttention

_BLOCK = 8  # columns; 63 take 1.5 times as long as 64


@dataclass(frozen=True)
class _Linear:
    weight: Tensor  # (out + R, in): the layer's rows, then `down` of the separate adapters
    up: Tensor | None  # (out, R) float32, the fastest for thin products
    bias: Tensor | None  # (out,) float32

    def __call__(self, x: Tensor) -> Tensor:
        """Map (in, N) to (out, N) float32."""
        out = (self.weight @ x.to(self.weight.dtype)).float()
        if self.up is not None:
            rows = len(self.up)
            out = out[:rows].addmm_(self.up, out[rows:])
        return out if self.bias is None else out.add_(self.bias[:, None])


@dataclass(frozen=True)
class _MergedWeight:
    """A linear layer's weight (out, in) and bias, and its separate adapters."""

    weight: Tensor
    bias: Tensor | None
    adapters: Sequence[Adapter]


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor, dim: int = 0) -> Tensor:
        """Normalise along `dim`, by default each column."""
        weight = self.weight if dim == -1 else self.weight[:, None]
        scale = torch.rsqrt(x.square().mean(dim, keepdim=True).add_(self.epsilon))
        return (x * scale).mul_(weight)


@dataclass(frozen=True)
class _Layer:
    before_attention: _Norm
    query_key_value: _Linear
    query_key_norm: _Norm | None  # of each head
    attention_out: _Linear
    before_mlp: _Norm
    gate_up: _Linear
    activation: nn.Module
    down: _Linear
    num_heads: int
    num_kv_heads: int
    scale: float


class CannotFuse(Exception):
    """A module has no exact fused form; use the model's own forward instead."""


class FusedForward:
    """The forward of a Llama, Qwen2 or Qwen3 model over a packed row, with copies of its weights.

    After a training step the copies are outdated: make another.
    """

    def __init__(self, model: Any) -> None:
        """Copy the weights of the transformers model, with the adapters of its linear layers.

        Raises CannotFuse for a module whose weights cannot be copied or merged exactly.
        """
        inner = model.model
        self.dtype = product_dtype(model.dtype)
        if type(inner.embed_tokens) is not nn.Embedding:
            raise CannotFuse(f"the embedding is {type(inner.embed_tokens).__name__}")
        self.embedding: Tensor = inner.embed_tokens.weight
        self.rotary = inner.rotary_emb
        self.layers = [_layer(layer, self.dtype) for layer in inner.layers]
        self.norm = _norm(inner.norm)
        self.head = _fused(self.dtype, model.lm_head)

    def __call__(
        self, ids: Tensor, positions: Tensor, attention: SharedAttention, keep: Tensor
    ) -> Tensor:
        """Return logits (K, V) at the indices `keep` (K,) of tokens (N,) at positions (N,)."""
        x = functional.embedding(_whole_blocks(ids), self.embedding).float().t().contiguous()
        cos, sin = self.rotary(x, positions[None])  # (1, N, D)
        cos, sin = cos[0, :, None], _signed(sin[0, :, None])
        for index, layer in enumerate(self.layers):
            x = _forward(layer, self.dtype, index, x, cos, sin, attention)
        return self.head(self.norm(x[:, _whole_blocks(keep)])).t()[: len(keep)].contiguous()


def _whole_blocks(x: Tensor) -> Tensor:
    """Pad x (N, …) with zeros to whole blocks."""
    extra = -len(x) % _BLOCK
    return torch.cat((x, x.new_zeros(extra, *x.shape[1:]))) if extra else x


def _forward(
    layer: _Layer,
    dtype: torch.dtype,
    index: int,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    attention: SharedAttention,
) -> Tensor:
    """Run a layer on x (E, N padded to whole blocks), with cos and sin (N, 1, D)."""
    n, _, d = cos.shape
    heads, kv_heads = layer.num_heads, layer.num_kv_heads
    # In the attention each token is a row.
    qkv = layer.query_key_value(layer.before_attention(x))[:, :n].t().contiguous()
    qk, v = qkv.view(n, heads + 2 * kv_heads, d).split((heads + kv_heads, kv_heads), 1)
    if layer.query_key_norm:
        qk = layer.query_key_norm(qk, -1)
    q, k = _rotate(qk, cos, sin).split((heads, kv_heads), 1)
    q, k, v = (part.to(dtype).transpose(0, 1)[None] for part in (q, k, v))
    mixed = attention.attend(index, q, k, v, layer.scale)  # (1, H, N, D)
    mixed = _whole_blocks(mixed[0].transpose(0, 1).reshape(n, heads * d))
    x = layer.attention_out(mixed.t()).add_(x)
    gate, up = layer.gate_up(layer.before_mlp(x)).chunk(2)
    return layer.down(layer.activation(gate) * up).add_(x)


def _rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Apply the rotary position embedding to x (N, H, D)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def _signed(sin: Tensor) -> Tensor:
    """Negate the first half of the sine, as rotate-half does with its operand."""
    first, second = sin.chunk(2, -1)
    return torch.cat((-first, second), -1)


def _layer(layer: Any, dtype: torch.dtype) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    config = attention.config
    return _Layer(
        before_attention=_norm(layer.input_layernorm),
        query_key_value=_fused(dtype, attention.q_proj, attention.k_proj, attention.v_proj),
        query_key_norm=_query_key_norm(attention),
        attention_out=_fused(dtype, attention.o_proj),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=_fused(dtype, mlp.gate_proj, mlp.up_proj),
        activation=mlp.act_fn,
        down=_fused(dtype, mlp.down_proj),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        scale=attention.scaling,
    )


def _query_key_norm(attention: Any) -> _Norm | None:
    """Join the norms of queries and keys, with weights (H + KV, D)."""
    if getattr(attention, "q_norm", None) is None:
        return None
    config, q, k = attention.config, _norm(attention.q_norm), _norm(attention.k_norm)
    counts = (config.num_attention_heads, config.num_key_value_heads)
    weights = [n.weight.expand(count, -1) for n, count in zip((q, k), counts, strict=True)]
    return _Norm(torch.cat(weights), q.epsilon)


def _norm(module: Any) -> _Norm:
    if not type(module).__name__.endswith("RMSNorm"):
        raise CannotFuse(f"a norm is {type(module).__name__}")
    return _Norm(module.weight.float(), module.variance_epsilon)


def _fused(dtype: torch.dtype, *modules: nn.Module) -> _Linear:
    """Join layers that have the same input: their outputs are concatenated."""
    parts = [_part(module, dtype) for module in modules]
    bias = None
    if any(part.bias is not None for part in parts):
        bias = torch.cat(
            [p.weight.new_zeros(len(p.weight)).float() if p.bias is None else p.bias for p in parts]
        )
    rows = [part.weight for part in parts]
    downs = [adapter.down.to(dtype) for part in parts for adapter in part.adapters]
    return _Linear(
        torch.cat((*rows, *downs)) if len(rows) + len(downs) > 1 else rows[0],
        torch.block_diag(*(_up(part) for part in parts)) if downs else None,
        bias,
    )


def _up(part: _MergedWeight) -> Tensor:
    """Concatenate `up` of the part's adapters to (out, sum of their r)."""
    none = part.weight.new_zeros(len(part.weight), 0).float()
    return torch.cat(
        [none, *(adapter.up.float() * adapter.scaling for adapter in part.adapters)], 1
    )


def _part(module: Any, dtype: torch.dtype) -> _MergedWeight:
    if not isinstance(module, LoraLayer):
        return _plain(module, dtype)
    plain = _plain(module.base_layer, dtype)
    try:
        adapters = active_adapters(module)
    except CannotMerge as error:
        raise CannotFuse(str(error)) from error
    weight, separate = merge_adapters(plain.weight, adapters)
    return _MergedWeight(weight, plain.bias, separate)


def _plain(module: Any, dtype: torch.dtype) -> _MergedWeight:
    """Return a linear layer's own weight, dequantised."""
    weight = module.weight
    if type(module).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    elif type(module) not in (nn.Linear, Float32Linear):
        raise CannotFuse(f"a linear layer is {type(module).__name__}")
    if weight.shape != (module.out_features, module.in_features) or weight.device.type != "cpu":
        raise CannotFuse("a weight is sharded or not on the CPU")
    return _MergedWeight(weight.to(dtype), None if module.bias is None else module.bias.float(), [])
