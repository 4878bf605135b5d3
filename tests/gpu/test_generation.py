from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from unit.shared_prefix.conftest import ARCHITECTURES, random_model
from unit.shared_prefix.test_generation import EOS, greedy, lora, prompts

from rlvr_trainer.shared_prefix import generate

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("header", [0, 23, 300])
def test_greedy_equals_plain_generation(
    architecture: str, header: int, device: torch.device
) -> None:
    model = get_peft_model(random_model(architecture), lora()).to(device)
    expected = [plain_greedy(model, prompt) for prompt in prompts(header)]
    for options in ({}, {"max_batch_size": 2}, {"cuda_graphs": True}):
        assert greedy(model, prompts(header), **options) == expected


def plain_greedy(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt], device=model.device)
    sequence = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    return sequence[0, len(prompt) :].tolist()


def test_a_seed_makes_sampling_repeatable(device: torch.device) -> None:
    model = random_model("llama").to(device)

    def sample(seed: int) -> list[list[int]]:
        return generate(
            model,
            prompts(9),
            tokenizer=None,
            max_new_tokens=8,
            temperature=1.0,
            eos_token_ids=set(),
            generator=torch.Generator(device).manual_seed(seed),
        )

    assert sample(0) == sample(0) != sample(1)
