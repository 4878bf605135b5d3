"""Compare the packed forward with TRL's own method, in float32."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM
from trl.trainer.utils import add_fused_lm_head

from rlvr_trainer.shared_prefix import generate, token_log_probs, unsupported_reason
from rlvr_trainer.shared_prefix.cpu.merged_linear import merged_linears
from rlvr_trainer.shared_prefix.registration import base_model, dropout_reason

from .conftest import (
    ARCHITECTURES,
    TEMPERATURE,
    Batch,
    gradient,
    random_batch,
    random_model,
    trl_scores,
)


def packed_scores(model: Any, batch: Batch, **kwargs: Any) -> Any:
    return token_log_probs(
        model,
        batch.input_ids,
        batch.attention_mask,
        batch.num_completion_tokens,
        compute_entropy=True,
        temperature=TEMPERATURE,
        **kwargs,
    )


def assert_equal_to_trl(model: Any, batch: Batch, entropy_weight: float = 1.0) -> None:
    torch.manual_seed(1)
    shape = (len(batch.input_ids), batch.num_completion_tokens)
    of_log_probs, of_entropy = torch.randn(shape), torch.randn(shape) * entropy_weight
    of_log_probs = of_log_probs.to(batch.input_ids.device)
    of_entropy = of_entropy.to(batch.input_ids.device)
    results = []
    for score, context in ((trl_scores, nullcontext), (packed_scores, merged_linears)):
        with context(base_model(model)):
            log_probs, entropies = score(model, batch)
            ((log_probs * of_log_probs).sum() + (entropies * of_entropy).sum()).backward()
        results.append((log_probs.detach(), entropies.detach(), gradient(model)))
    expected, expected_entropy, expected_gradient = results[0]
    log_probs, entropies, actual_gradient = results[1]
    assert (log_probs - expected).abs().max() < 5e-5
    assert (entropies - expected_entropy).abs().max() < 5e-5
    assert (actual_gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
def test_log_probs_entropies_and_their_gradients_are_those_of_trl(
    architecture: str, checkpointing: str | None, ragged: Batch
) -> None:
    model = random_model(architecture)
    train(model, checkpointing)
    assert_equal_to_trl(model, ragged)


def test_in_bfloat16_they_are_as_close_to_float32_as_trls(has_amx: bool, ragged: Batch) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(random_model("qwen3"), config).bfloat16()
    assert_as_close_to_float32_as_trls(model, ragged)


def assert_as_close_to_float32_as_trls(model: Any, batch: Batch) -> None:
    def results(score: Any) -> list[torch.Tensor]:
        log_probs, entropies = score(model, batch)
        (log_probs.sum() + entropies.sum()).backward()
        return [x.detach().float() for x in (log_probs, entropies, gradient(model))]

    plain = results(trl_scores)
    with merged_linears(base_model(model)):
        packed = results(packed_scores)
    model.float()
    exact = results(trl_scores)
    for ours, theirs, true in zip(packed, plain, exact, strict=True):
        assert (ours - true).norm() < 1.5 * (theirs - true).norm() < 0.2 * true.norm()


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
def test_lora(checkpointing: str | None, ragged: Batch) -> None:
    model = get_peft_model(random_model("qwen2"), LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    train(model, checkpointing)
    assert_equal_to_trl(model, ragged)


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "non-reentrant"])
def test_qlora_after_an_evaluation(
    checkpointing: str | None, quantised: Any, ragged: Batch
) -> None:
    model = get_peft_model(quantised, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data = parameter.data.float()
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    prompt = ragged.input_ids[:1, -20:].tolist()
    generate(model, prompt, tokenizer=None, max_new_tokens=2, temperature=0, eos_token_ids=set())
    train(model, checkpointing)
    assert_equal_to_trl(model, ragged)


def test_the_embedded_model_on_text(smollm2_dir: Path) -> None:
    """Compare without the entropies' gradient: TRL's is 4e-5 from float64's here, ours 7e-6."""
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    header = "Question: What is 1 + 1?\nSolution: 2\n\nQuestion: "
    answers = {"What is 2 + 2?": (" 4", " It is 2 + 2 = 4."), "Name a colour.": (" Red.",)}
    prompts = [header + q + "\nSolution:" for q, a in answers.items() for _ in a]
    completions = [answer for a in answers.values() for answer in a]
    batch = padded(tokenizer(prompts)["input_ids"], tokenizer(completions)["input_ids"])
    assert_equal_to_trl(adapted, batch, entropy_weight=0.0)


def padded(prompts: list[list[int]], completions: list[list[int]]) -> Batch:
    width, columns = max(map(len, prompts)), max(map(len, completions))
    ids = torch.zeros(len(prompts), width + columns, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        span = slice(width - len(prompt), width + len(completion))
        ids[i, span], mask[i, span] = torch.tensor(prompt + completion), 1
    return Batch(ids, mask, columns)


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(random_batch(0, [4, 6], [(0, 5), (1, 5), (0, 3)]), id="no header"),
        pytest.param(random_batch(20, [4], [(0, 5), (0, 5), (0, 2)]), id="one group"),
        pytest.param(random_batch(9, [3, 3, 3], [(0, 4), (1, 4), (2, 4)]), id="groups of one"),
        pytest.param(random_batch(0, [1], [(0, 1)]), id="one token"),
    ],
)
def test_shapes_of_batch(batch: Batch) -> None:
    assert_equal_to_trl(random_model("llama"), batch)


def test_rows_that_are_not_asked_for_are_zero_and_the_others_unchanged(ragged: Batch) -> None:
    model = random_model("llama")
    rows = torch.tensor([True, False] * 4)
    all_rows, _ = packed_scores(model, ragged)
    some, _ = packed_scores(model, ragged, rows=rows)
    assert (some[~rows] == 0).all()
    torch.testing.assert_close(some[rows], all_rows[rows], atol=5e-5, rtol=0)


def test_without_any_row_the_model_is_still_called_and_has_a_zero_gradient(ragged: Batch) -> None:
    model = random_model("llama")
    log_probs, _ = packed_scores(model, ragged, rows=torch.zeros(8, dtype=torch.bool))
    (log_probs * torch.zeros_like(log_probs)).sum().backward()
    assert gradient(model).abs().max() == 0


def test_the_plain_forward_is_unchanged_by_a_packed_one(ragged: Batch) -> None:
    model = random_model("llama")
    before, _ = trl_scores(model, ragged)
    packed_scores(model, ragged)
    after, _ = trl_scores(model, ragged)
    assert torch.equal(before, after)


def test_a_forward_that_another_library_put_on_the_head_is_called_and_stays(ragged: Batch) -> None:
    model = random_model("llama")
    model.requires_grad_(False)
    expected, _ = packed_scores(model, ragged)
    head, called = model.get_output_embeddings(), []
    plain = head.forward
    offloaded = lambda hidden: called.append(1) or plain(hidden)  # noqa: E731
    head.forward = offloaded
    actual, _ = packed_scores(model, ragged)
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=0)
    assert called
    assert head.forward is offloaded


def test_entropies_that_are_only_looked_at_have_no_gradient(ragged: Batch) -> None:
    model = random_model("llama")
    _, entropies = packed_scores(model, ragged, entropy_gradient=False)
    assert not entropies.requires_grad


def test_a_mask_with_a_hole_is_an_error(ragged: Batch) -> None:
    ragged.attention_mask[1, -8] = 0
    with pytest.raises(ValueError, match="row 1"):
        packed_scores(random_model("llama"), ragged)


def test_sliding_windows_and_other_architectures_are_refused() -> None:
    assert unsupported_reason(random_model("qwen2")) is None
    for architecture in ("qwen2", "qwen3"):
        window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
        windowed = random_model(architecture, **window)
        assert "sliding window" in (unsupported_reason(windowed) or "")
    mistral = MistralForCausalLM(
        MistralConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
    )
    assert "mistral" in (unsupported_reason(mistral) or "")


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            "factor": 2.0,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 256,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_a_rope_that_turns_by_the_rows_length_is_refused(rope: dict[str, Any]) -> None:
    model = random_model("llama", rope_parameters={"rope_theta": 1e4, **rope})
    assert rope["rope_type"] in (unsupported_reason(model) or "")


@pytest.mark.parametrize(
    "adapter",
    [
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        LoraConfig(alora_invocation_tokens=[7], target_modules=["q_proj"], task_type="CAUSAL_LM"),
    ],
    ids=["prompt tuning", "aLoRA"],
)
def test_an_adapter_that_adds_tokens_or_looks_for_some_is_refused(adapter: Any) -> None:
    assert "adapter" in (unsupported_reason(get_peft_model(random_model("llama"), adapter)) or "")


def test_dropout_is_refused_in_training_alone() -> None:
    dropping = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear")
    for model in (
        get_peft_model(random_model("llama"), dropping),
        random_model("llama", attention_dropout=0.1),
    ):
        assert "dropout" in (dropout_reason(model.train()) or "")
        assert dropout_reason(model.eval()) is None
        assert unsupported_reason(model.train()) is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_models_own_attention_keeps_its_name_and_its_numbers(
    attention: str, ragged: Batch
) -> None:
    model, other = random_model("qwen2"), random_model("llama")
    for lm in (model, other):
        lm.set_attn_implementation(attention)
    before = [trl_scores(lm, ragged)[0] for lm in (model, other)]
    packed_scores(model, ragged)
    assert model.config._attn_implementation == attention
    for lm, expected in zip((model, other), before, strict=True):
        lm.set_attn_implementation(attention)  # the name is still registered in transformers
        assert torch.equal(trl_scores(lm, ragged)[0], expected)


def train(model: Any, checkpointing: str | None) -> None:
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": checkpointing == "reentrant"}
        )
        model.enable_input_require_grads()
