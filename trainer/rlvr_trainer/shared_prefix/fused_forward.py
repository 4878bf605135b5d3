"""A model's forward as generation on a CPU wants it: adapters merged, projections fused, float32.

A decode step is a few tokens through every weight. Module by module it is hundreds of small
operations, most of them an adapter's; fused it is four multiplications a layer. They are in float32
because a merge into bfloat16 would round the adapter away, and because CPUs without AMX multiply it
as fast or faster. Activations have a token in each column: a weight times 16 to 128 columns takes
two thirds of the time of as many rows times its transpose, if the columns are whole blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from rlvr_trainer.shared_prefix.adapters import CannotMerge, active_adapters, with_adapters
from rlvr_trainer.shared_prefix.merged_linear import Float32Linear
from rlvr_trainer.shared_prefix.registration import SharedAttention

_BLOCK = 8  # columns; 63 take half as long again as 64


@dataclass(frozen=True)
class _Linear:
    weight: Tensor  # (out, in)
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """(in, N) → (out, N)."""
        if self.bias is None:
            return self.weight @ x
        return torch.addmm(self.bias[:, None], self.weight, x)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        out = torch.addmm(residual, self.weight, x)
        return out if self.bias is None else out.add_(self.bias[:, None])


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor, dim: int = 0) -> Tensor:
        """Of what lies along `dim`, the columns if not told."""
        weight = self.weight if dim == -1 else self.weight[:, None]
        scale = torch.rsqrt(x.square().mean(dim, keepdim=True).add_(self.epsilon))
        return (x * scale).mul_(weight)


@dataclass(frozen=True)
class _Layer:
    before_attention: _Norm
    query_key_value: _Linear
    query_norm: _Norm | None
    key_norm: _Norm | None
    attention_out: _Linear
    before_mlp: _Norm
    gate_up: _Linear
    activation: nn.Module
    down: _Linear
    num_heads: int
    num_kv_heads: int
    scale: float


class CannotFuse(Exception):
    """A module here has no exact fused form; run the model's own forward instead."""


class FusedForward:
    """The forward of a Llama, Qwen2 or Qwen3 model over a packed row, from copies of its weights.

    The copies are those of the policy when it was made; make another after a training step.
    """

    def __init__(self, model: Any) -> None:
        """`model`: the transformers model, with adapters in its linear layers or without.

        Raises CannotFuse for a module whose weights cannot be copied or merged exactly.
        """
        inner = model.model
        if type(inner.embed_tokens) is not nn.Embedding:
            raise CannotFuse(f"the embedding is {type(inner.embed_tokens).__name__}")
        self.embedding: Tensor = inner.embed_tokens.weight
        self.rotary = inner.rotary_emb
        self.layers = [_layer(layer) for layer in inner.layers]
        self.norm = _norm(inner.norm)
        self.head = _fused(model.lm_head)

    def __call__(
        self, ids: Tensor, positions: Tensor, attention: SharedAttention, keep: Tensor
    ) -> Tensor:
        """Logits (K, V) at the indices `keep` (K,) of a row of tokens (N,) at positions (N,)."""
        x = functional.embedding(_whole_blocks(ids), self.embedding).float().t().contiguous()
        cos, sin = self.rotary(x, positions[None])  # (1, N, D)
        cos, sin = cos[0, :, None], _signed(sin[0, :, None])
        for index, layer in enumerate(self.layers):
            x = _forward(layer, index, x, cos, sin, attention)
        return self.head(self.norm(x[:, _whole_blocks(keep)])).t()[: len(keep)]


def _whole_blocks(x: Tensor) -> Tensor:
    """x (N, …) with zeros after it, to whole blocks."""
    extra = -len(x) % _BLOCK
    return torch.cat((x, x.new_zeros(extra, *x.shape[1:]))) if extra else x


def _forward(
    layer: _Layer, index: int, x: Tensor, cos: Tensor, sin: Tensor, attention: SharedAttention
) -> Tensor:
    """A layer over x (E, N and the rest of a block), with cos and sin (N, 1, D)."""
    n, _, d = cos.shape
    heads, kv_heads = layer.num_heads, layer.num_kv_heads
    # From here to the end of the attention a token in each row.
    qkv = layer.query_key_value(layer.before_attention(x))[:, :n].t().contiguous()
    q, k, v = qkv.view(n, heads + 2 * kv_heads, d).split((heads, kv_heads, kv_heads), 1)
    if layer.query_norm and layer.key_norm:
        q, k = layer.query_norm(q, -1), layer.key_norm(k, -1)
    q, k, v = (
        part.transpose(0, 1)[None] for part in (_rotate(q, cos, sin), _rotate(k, cos, sin), v)
    )
    mixed = attention.attend(index, q, k, v, layer.scale)  # (1, H, N, D)
    mixed = _whole_blocks(mixed[0].transpose(0, 1).reshape(n, heads * d))
    x = layer.attention_out.add_to(x, mixed.t())
    gate, up = layer.gate_up(layer.before_mlp(x)).chunk(2)
    return layer.down.add_to(x, layer.activation(gate) * up)


def _rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotary position embedding of x (N, H, D)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def _signed(sin: Tensor) -> Tensor:
    """The sine with the sign that rotating by halves gives to what it multiplies."""
    first, second = sin.chunk(2, -1)
    return torch.cat((-first, second), -1)


def _layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    config = attention.config
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    query_norm, key_norm = (_norm(norm) if norm is not None else None for norm in norms)
    return _Layer(
        before_attention=_norm(layer.input_layernorm),
        query_key_value=_fused(attention.q_proj, attention.k_proj, attention.v_proj),
        query_norm=query_norm,
        key_norm=key_norm,
        attention_out=_fused(attention.o_proj),
        before_mlp=_norm(layer.post_attention_layernorm),
        gate_up=_fused(mlp.gate_proj, mlp.up_proj),
        activation=mlp.act_fn,
        down=_fused(mlp.down_proj),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        scale=attention.scaling,
    )


def _norm(module: Any) -> _Norm:
    if not type(module).__name__.endswith("RMSNorm"):
        raise CannotFuse(f"a norm is {type(module).__name__}")
    return _Norm(module.weight.float(), module.variance_epsilon)


def _fused(*modules: nn.Module) -> _Linear:
    """The layers side by side: one input, their outputs one after the other."""
    parts = [_merged(module) for module in modules]
    if len(parts) == 1:
        return parts[0]
    biases = [
        part.weight.new_zeros(len(part.weight)) if part.bias is None else part.bias
        for part in parts
    ]
    has_bias = any(part.bias is not None for part in parts)
    return _Linear(
        torch.cat([part.weight for part in parts]), torch.cat(biases) if has_bias else None
    )


def _merged(module: Any) -> _Linear:
    """A linear layer's weights, dequantised, with its active adapters added."""
    if not isinstance(module, LoraLayer):
        return _plain(module)
    linear = _plain(module.base_layer)
    try:
        return _Linear(with_adapters(linear.weight, active_adapters(module)), linear.bias)
    except CannotMerge as error:
        raise CannotFuse(str(error)) from error


def _plain(module: Any) -> _Linear:
    weight = module.weight
    if type(module).__name__ == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    elif type(module) not in (nn.Linear, Float32Linear):
        raise CannotFuse(f"a linear layer is {type(module).__name__}")
    if weight.shape != (module.out_features, module.in_features) or weight.device.type != "cpu":
        raise CannotFuse("a weight is sharded or lies elsewhere")
    return _Linear(weight.float(), None if module.bias is None else module.bias.float())
