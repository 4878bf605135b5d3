from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlvr_trainer.evaluation import completions
from rlvr_trainer.evaluation.completions import Sampling, complete
from rlvr_trainer.shared_prefix import LogitsNotFinite, unsupported_reason


@pytest.fixture(scope="module")
def tokenizer(smollm2_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2_dir)


def shape(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the fields of a small model."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.fixture
def llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape(tokenizer)))


def test_an_architecture_that_cannot_share_is_generated_from_plainly_and_one_line_says_why(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    config = MistralConfig(**shape(tokenizer), sliding_window=8)
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
    assert [record.message for record in caplog.records] == [
        "Completions are generated without shared prefixes: The architecture 'mistral' is not one "
        "of llama, qwen2, qwen3."
    ]


def test_a_model_whose_training_has_dropout_shares_prefixes_here(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "_generate_plain", None)
    model = get_peft_model(llama, LoraConfig(lora_dropout=0.5, target_modules="all-linear")).train()
    sampling = Sampling(max_new_tokens=4)
    first, second = (
        complete(model, tokenizer, [[5, 6], [5, 7]], sampling=sampling, stop="Q", share_prefix=True)
        for _ in range(2)
    )
    assert first == second  # nothing was dropped


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_model_that_gives_no_numbers_completes_nothing(
    share_prefix: bool,
    temperature: float,
    llama: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    llama.model.norm.weight.data.fill_(float("nan"))
    sampling = Sampling(4, temperature=temperature)
    prompts = [[5, 6], [5, 7]]
    with pytest.raises(LogitsNotFinite, match="NaN or infinite"):
        complete(llama, tokenizer, prompts, sampling=sampling, stop="Q", share_prefix=share_prefix)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_min_p_keeps_the_likely_tokens(
    share_prefix: bool, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    greedy, drawn = (
        complete(
            llama,
            tokenizer,
            [[5, 6], [5, 7]],
            sampling=sampling,
            stop="Q",
            share_prefix=share_prefix,
        )
        for sampling in (Sampling(8), Sampling(8, temperature=1.0, min_p=0.9999))
    )
    assert drawn == greedy


@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_turn_ends_at_its_token_and_no_line_ends_it_without_a_stop(
    share_prefix: bool, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = tokenizer(["Once upon a time", "Once upon another"])["input_ids"]
    options: Any = {"sampling": Sampling(8), "stop": "", "share_prefix": share_prefix}
    [first, _] = complete(llama, tokenizer, prompts, **options)
    assert not first.finished
    end = next(token for token in first.token_ids[1:] if token != first.token_ids[0])

    [ended, _] = complete(llama, tokenizer, prompts, **options, end_of_turn={end})

    length = 1 + first.token_ids.index(end)
    assert ended.token_ids == first.token_ids[:length]
    assert ended.finished
    assert ended.text == tokenizer.decode(first.token_ids[: length - 1])
