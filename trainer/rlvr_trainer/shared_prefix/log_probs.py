"""Log-probabilities of completions, equal to TRL's, from one packed forward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlvr_trainer.shared_prefix import cpu
from rlvr_trainer.shared_prefix.cpu.tree_attention import PackedAttention
from rlvr_trainer.shared_prefix.gpu.flex_attention import FlexAttention
from rlvr_trainer.shared_prefix.packed_layout import Layout, PackedBatch, pack
from rlvr_trainer.shared_prefix.registration import (
    SharedAttention,
    base_model,
    enable,
    packed_mask,
)
from rlvr_trainer.shared_prefix.token_scores import head_scores, token_scores


def token_log_probs(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    num_completion_tokens: int,
    *,
    rows: Tensor | None = None,
    compute_entropy: bool = False,
    entropy_gradient: bool = True,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Return the log-probability, and optionally the entropy, of every completion token.

    The numbers are those of `GRPOTrainer._get_per_token_logps_and_entropies` (TRL 1.16):
    log-softmax of the logits divided by `temperature`, in float32, and zero where `attention_mask`
    is zero. The model is called exactly once. On a CPU, forward and backward are faster inside
    `cpu.merged_linear.merged_linears`.

    Args:
        model: a causal language model, bare or wrapped (PEFT, DeepSpeed, accelerate).
        input_ids: (B, P + C) left-padded prompts and right-padded completions, rows in any order.
        attention_mask: (B, P + C).
        num_completion_tokens: C.
        rows: (B,) bool, the rows to compute; the others are zero. At least one is always computed.
        entropy_gradient: False if entropies are only logged, which saves a multiplication.

    Returns log-probabilities (B, C) and entropies (B, C) or None.
    Raises ValueError for a mask with holes or a row without a prompt.
    """
    shape = (input_ids.shape[0], num_completion_tokens)
    batch = pack_rows(input_ids, attention_mask, num_completion_tokens, rows)
    device = input_ids.device
    predictors, targets, row, column = (
        torch.tensor(x, device=device)
        for x in (batch.predictors, batch.targets, batch.rows, batch.columns)
    )
    bare = base_model(model)
    enable(bare)
    head = bare.get_output_embeddings()
    of_entropy = compute_entropy and entropy_gradient
    with _scores_instead_of_logits(head, targets, temperature, entropy_gradient=of_entropy):
        scores = model(
            input_ids=torch.tensor([batch.input_ids], device=device),
            attention_mask=packed_mask(device),
            position_ids=torch.tensor([batch.position_ids], device=device),
            use_cache=False,
            logits_to_keep=predictors,
            shared_prefix=packed_attention(batch.layout, device),
        ).logits[0]  # (T, 2)
    spread = scores.new_zeros(*shape, 2).index_put((row, column), scores)
    if not compute_entropy:
        return spread[..., 0], None
    return spread[..., 0], spread[..., 1] if entropy_gradient else spread[..., 1].detach()


def packed_attention(layout: Layout, device: torch.device) -> SharedAttention:
    """Return the fastest attention over a packed row on this device."""
    return PackedAttention(layout) if cpu.is_used(device) else FlexAttention.over(layout, device)


def pack_rows(
    input_ids: Tensor,
    attention_mask: Tensor,
    num_completion_tokens: int,
    rows: Tensor | None = None,
) -> PackedBatch:
    """Pack the chosen rows that have completion tokens.

    If none has any, the first row's first completion token is scored instead, masked or not, so
    that the model is called and every parameter is in the graph.
    """
    num_prompt_tokens = input_ids.shape[1] - num_completion_tokens
    ids, mask = input_ids.tolist(), attention_mask.tolist()
    chosen = [True] * len(ids) if rows is None else rows.tolist()
    prompts, completions = [], []
    for i, (row, seen) in enumerate(zip(ids, mask, strict=True)):
        prompt_length, length = sum(seen[:num_prompt_tokens]), sum(seen[num_prompt_tokens:])
        start, stop = num_prompt_tokens - prompt_length, num_prompt_tokens + length
        if not prompt_length or not all(seen[start:stop]):
            raise ValueError(
                f"row {i} has an attention mask with {prompt_length} prompt and {length} "
                "completion tokens that is not left-padded prompt, right-padded completion; pad it "
                "accordingly or use the plain forward"
            )
        prompts.append(row[start:num_prompt_tokens])
        completions.append(row[num_prompt_tokens:stop] if chosen[i] else [])
    if not any(completions):
        completions[0] = ids[0][num_prompt_tokens : num_prompt_tokens + 1]
    return pack(prompts, completions)


@contextmanager
def _scores_instead_of_logits(
    head: Any, targets: Tensor, temperature: float, *, entropy_gradient: bool
) -> Iterator[None]:
    """Make the model return (1, T, 2) log-probabilities and entropies, not logits (1, T, V).

    Replacing them in the head works inside every wrapper, and mixed-precision wrappers, which cast
    a model's outputs to float32, never see a tensor as large as the logits.
    """

    def score_logits(_head: nn.Module, _args: Any, logits: Tensor) -> Tensor:
        # A view: indexing would zero and copy a gradient as large as the logits.
        return token_scores(logits.squeeze(0), targets, temperature)[None]

    def score(hidden: Tensor) -> Tensor:
        return head_scores(
            hidden.squeeze(0),
            head.weight,
            head.bias,
            targets,
            temperature,
            entropy_gradient=entropy_gradient,
        )[None]

    is_plain = type(head) is nn.Linear and "forward" not in vars(head)
    is_trained = torch.is_grad_enabled() and any(p.requires_grad for p in head.parameters())
    if is_trained or not is_plain:
        handle = head.register_forward_hook(score_logits)
        try:
            yield
        finally:
            handle.remove()
    else:
        head.forward = score
        try:
            yield
        finally:
            del head.forward
