"""Compare the fused forward with the model's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from rlvr_trainer.shared_prefix import generate
from rlvr_trainer.shared_prefix.cpu.fused_forward import CannotFuse, FusedForward
from rlvr_trainer.shared_prefix.decode_attention import HeaderAttention

from .conftest import ARCHITECTURES, random_model

IDS = torch.tensor([7, 3, 150, 9, 9, 42, 11, 5, 99])


def adapted(model: Any, **options: Any) -> Any:
    return get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options)
    )


@torch.no_grad()
def assert_same_logits(model: Any, ids: Tensor = IDS) -> None:
    model.eval()
    expected: Tensor = model(input_ids=ids[None]).logits[0]
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    every = torch.arange(len(ids))
    actual = FusedForward(bare)(ids, every, HeaderAttention(), every)
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_tokens", [1, 8, 9])
def test_its_logits_are_the_models(architecture: str, num_tokens: int) -> None:
    assert_same_logits(random_model(architecture), IDS[:num_tokens])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_are_part_of_it(architecture: str) -> None:
    assert_same_logits(adapted(random_model(architecture), lora_alpha=16, use_rslora=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_bfloat16_it_is_as_close_to_float32_as_the_modules(
    architecture: str, has_amx: bool
) -> None:
    model = adapted(random_model(architecture, attention_bias=True), lora_alpha=16).bfloat16()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    forward = FusedForward(model.get_base_model())
    assert forward.dtype == (torch.bfloat16 if has_amx else torch.float32)
    every = torch.arange(len(IDS))
    with torch.no_grad():
        fused = forward(IDS, every, HeaderAttention(), every)
        plain = model(input_ids=IDS[None]).logits[0]
        exact = model.float()(input_ids=IDS[None]).logits[0]
    assert (fused - exact).norm() < 1.5 * (plain - exact).norm() < 0.1 * exact.norm()


def test_biases_are_part_of_it() -> None:
    model = random_model("llama", attention_bias=True, mlp_bias=True)
    assert_same_logits(adapted(model))


def test_scaled_rotary_positions_are_the_models() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    assert_same_logits(random_model("llama", rope_parameters=rope))


def test_two_active_adapters_add_up_and_a_disabled_one_counts_for_nothing() -> None:
    model = adapted(random_model("llama"))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    assert_same_logits(model)
    with model.disable_adapter():
        assert_same_logits(model)
    model.merge_adapter()
    assert_same_logits(model)


def test_quantised_weights_are_dequantised(quantised: Any) -> None:
    assert_same_logits(adapted(quantised))


def test_layers_that_cannot_be_merged_are_run_module_by_module() -> None:
    model = adapted(random_model("llama"), use_dora=True)
    with pytest.raises(CannotFuse, match="more than B · A"):
        FusedForward(model.get_base_model())
    prompt = IDS.tolist()
    expected = model.generate(
        input_ids=IDS[None],
        attention_mask=torch.ones_like(IDS)[None],
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=0,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    [actual] = generate(
        model, [prompt], tokenizer=None, max_new_tokens=8, temperature=0, eos_token_ids={0}
    )
    assert actual == expected
