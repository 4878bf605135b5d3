from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from rlvr_trainer.generation import Sampling, complete
from rlvr_trainer.shared_prefix import unsupported_reason


def test_an_architecture_that_cannot_share_is_generated_from_plainly(smollm2_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = MistralForCausalLM(config).eval()
    assert unsupported_reason(model) is not None
    prompts = tokenizer(["A header that is longer than the window. One?", "A header. Two?"])
    shared, plain = (
        complete(
            model,
            tokenizer,
            prompts["input_ids"],
            sampling=Sampling(max_new_tokens=6),
            stop="Question:",
            share_prefix=share,
        )
        for share in (True, False)
    )
    assert shared == plain
