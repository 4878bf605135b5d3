"""Test the GPU's attention over a packed row, in the unfused form that runs on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from rlvr_trainer.shared_prefix.cpu.tree_attention import PackedAttention
from rlvr_trainer.shared_prefix.gpu.flex_attention import FlexAttention, block_mask
from rlvr_trainer.shared_prefix.packed_layout import Layout, pack

from .conftest import Batch, random_model
from .test_log_probs import assert_equal_to_trl, train

CPU = torch.device("cpu")


def layout_of(header: int, questions: Sequence[int], answers: Sequence[tuple[int, int]]) -> Layout:
    """Return a layout; `answers`: (question, completion length). A question repeats its number."""
    prompts = [[0] * header + [1 + question] * questions[question] for question, _ in answers]
    return pack(prompts, [[9] * length for _, length in answers]).layout


LAYOUTS = {
    "ragged": layout_of(150, [5, 40, 3], [(0, 7), (1, 60), (0, 12), (2, 1), (1, 4), (2, 130)]),
    "no header": layout_of(0, [4, 6], [(0, 5), (1, 5), (0, 3)]),
    "one group": layout_of(20, [4], [(0, 5), (0, 5), (0, 2)]),
    "one token": layout_of(0, [1], [(0, 1)]),
}


def test_a_token_sees_the_header_its_question_and_its_own_past() -> None:
    layout = layout_of(2, [1, 2], [(0, 3), (1, 2), (0, 2)])
    # header 0 1, questions 2 | 3 4, completions of the first 5 | 6 7, of the second 8
    seen = {
        0: {0},
        1: {0, 1},
        2: {0, 1, 2},
        3: {0, 1, 3},
        4: {0, 1, 3, 4},
        5: {0, 1, 2, 5},
        6: {0, 1, 2, 6},
        7: {0, 1, 2, 6, 7},
        8: {0, 1, 3, 4, 8},
    }
    assert seen_by_each(layout) == seen


def seen_by_each(layout: Layout) -> dict[int, set[int]]:
    visible = block_mask(layout, CPU).mask_mod
    n = layout.num_tokens
    every = range(n)
    return {q: {k for k in every if visible(0, 0, torch.tensor(q), torch.tensor(k))} for q in every}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_it_is_the_tree_attention(layout: Layout, as_on_a_gpu: None) -> None:
    torch.manual_seed(0)
    n = layout.num_tokens
    inputs = [torch.randn(1, heads, n, 16, requires_grad=True) for heads in (6, 2, 2)]
    toward = torch.randn(1, 6, n, 16)
    results = []
    for attention in (PackedAttention(layout), FlexAttention.over(layout, CPU)):
        out = attention.attend(0, *inputs, 0.3)
        results.append((out, *torch.autograd.grad((out * toward).sum(), inputs)))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
def test_log_probs_entropies_and_their_gradients_are_those_of_trl(
    checkpointing: str | None, ragged: Batch, as_on_a_gpu: None
) -> None:
    model = random_model("qwen2")
    train(model, checkpointing)
    assert_equal_to_trl(model, ragged)


def test_queries_may_be_the_rows_last_tokens_only() -> None:
    layout = layout_of(30, [5, 9], [(0, 1), (1, 1)])
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, layout.num_tokens, 16) for heads in (4, 2, 2))
    whole = FlexAttention.over(layout, CPU).attend(0, q, k, v, 0.25)
    last = FlexAttention(block_mask(layout, CPU, first_query=30)).attend(
        0, q[:, :, 30:], k, v, 0.25
    )
    torch.testing.assert_close(last, whole[:, :, 30:])


def test_queries_and_keys_that_autocast_left_in_float32_are_attended_in_the_values_type() -> None:
    layout = LAYOUTS["one group"]
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, layout.num_tokens, 16) for _ in range(3))
    expected = FlexAttention.over(layout, CPU).attend(0, q, k, v, 0.25)
    mixed = FlexAttention.over(layout, CPU).attend(0, q, k, v.bfloat16(), 0.25)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, expected, atol=0.03, rtol=0.03)
