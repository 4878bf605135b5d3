"""The packed forward with FlexAttention's compiled kernel against TRL's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters
from unit.shared_prefix.conftest import ARCHITECTURES, Batch, random_batch, random_model
from unit.shared_prefix.test_log_probs import (
    assert_as_close_to_float32_as_trls,
    assert_equal_to_trl,
    packed_scores,
    train,
)

from rlvr_trainer.shared_prefix.gpu.flex_attention import FlexAttention
from rlvr_trainer.shared_prefix.packed_layout import pack

pytestmark = pytest.mark.gpu

RAGGED = [(0, 7), (1, 12), (0, 12), (2, 1), (1, 4), (0, 0), (2, 12), (1, 12)]


def batch_on(device: torch.device, header: int, rows: Any = RAGGED) -> Batch:
    batch = random_batch(header, [5, 9, 3], rows)
    return Batch(
        batch.input_ids.to(device), batch.attention_mask.to(device), batch.num_completion_tokens
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
def test_log_probs_entropies_and_their_gradients_are_those_of_trl(
    architecture: str, checkpointing: str | None, device: torch.device
) -> None:
    model = random_model(architecture).to(device)
    train(model, checkpointing)
    assert_equal_to_trl(model, batch_on(device, 300))


def lora_model(architecture: str, checkpointing: str | None, device: torch.device) -> Any:
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(random_model(architecture), lora).to(device)
    train(model, checkpointing)
    return model


@pytest.mark.parametrize("checkpointing", ["reentrant", "non-reentrant"])
@pytest.mark.parametrize("header", [0, 300])
def test_lora(header: int, checkpointing: str, device: torch.device) -> None:
    model = lora_model("qwen2", checkpointing, device)
    assert_equal_to_trl(model, batch_on(device, header))


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
@pytest.mark.parametrize("header", [0, 300])
def test_in_bfloat16_it_is_as_close_to_float32_as_trls(
    header: int, checkpointing: str | None, device: torch.device
) -> None:
    model = lora_model("qwen2", checkpointing, device).bfloat16()
    assert_as_close_to_float32_as_trls(model, batch_on(device, header))


def test_a_new_length_compiles_nothing_new(device: torch.device) -> None:
    model = random_model("llama").to(device)
    for header in (130, 141):
        packed_scores(model, batch_on(device, header))
    before = counters["stats"]["unique_graphs"]
    for header in (152, 290, 411):
        packed_scores(model, batch_on(device, header))
    assert counters["stats"]["unique_graphs"] == before


def test_the_scores_of_a_long_row_are_not_stored(device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("FlexAttention stores them on a CPU")
    num_tokens, heads = 16_000, 4
    layout = pack([[1] * num_tokens + [2, 3]] * 2, [[4, 5], [6, 7]]).layout
    shape = (1, heads, layout.num_tokens, 64)
    q, k, v = (torch.randn(shape, device=device).bfloat16().requires_grad_() for _ in range(3))
    attention = FlexAttention.over(layout, device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention.attend(0, q, k, v, 0.125).sum().backward()
    stored = torch.cuda.max_memory_allocated() - before
    assert stored < heads * num_tokens**2 * 2 / 8  # an eighth of the scores in two bytes each
