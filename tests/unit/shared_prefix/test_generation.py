from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlvr_trainer.shared_prefix import decode_attention, generate
from rlvr_trainer.shared_prefix.decode_attention import DecodeAttention
from rlvr_trainer.shared_prefix.gpu.decode_graph import GraphedForward
from rlvr_trainer.shared_prefix.sampling import NOT_FINITE, Sampler
from rlvr_trainer.shared_prefix.stopping import StopStrings

from .conftest import ARCHITECTURES, random_model

EOS = 5


def prompts(header: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(3)
    shared = torch.randint(6, 211, (header,), generator=g).tolist()
    asked = [torch.randint(6, 211, (n,), generator=g).tolist() for n in (4, 7, 2)]
    return [shared + asked[i] for i in (0, 1, 0, 2, 1)]


def lora(**options: Any) -> LoraConfig:
    """Return an adapter that changes the model's completions."""
    return LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options)


def greedy(
    model: Any, prompt_ids: list[list[int]], max_new_tokens: int = 20, **options: Any
) -> list[list[int]]:
    return generate(
        model,
        prompt_ids,
        tokenizer=None,
        max_new_tokens=max_new_tokens,
        temperature=0,
        eos_token_ids={EOS},
        **options,
    )


def plain_greedy(model: Any, prompt_ids: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    completions = []
    for prompt in prompt_ids:
        ids = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=0,
        )
        completions.append(ids[0, len(prompt) :].tolist())
    return completions


def test_buffers_that_grow_keep_what_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    monkeypatch.setattr(decode_attention, "_GROWTH", 3)
    actual = greedy(model, prompts(23))
    assert max(map(len, actual)) == 20
    assert actual == plain_greedy(model, prompts(23), 20)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("header", [0, 23])
def test_greedy_equals_plain_generation(architecture: str, header: int) -> None:
    model = get_peft_model(random_model(architecture), lora())
    expected = plain_greedy(model, prompts(header), 20)
    for max_batch_size in (None, 2):
        assert greedy(model, prompts(header), max_batch_size=max_batch_size) == expected


@pytest.mark.parametrize("header", [0, 23])
def test_greedy_in_bfloat16_takes_what_float32_finds_likeliest_up_to_rounding(
    header: int, has_amx: bool
) -> None:
    model = get_peft_model(random_model("qwen2"), lora()).bfloat16()
    completions = greedy(model, prompts(header))
    model.float()
    for prompt, completion in zip(prompts(header), completions, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
        logits = logits[len(prompt) - 1 : -1]
        chosen = logits.gather(-1, torch.tensor(completion)[:, None])
        assert (logits.amax(-1, keepdim=True) - chosen).max() < 0.05 * logits.std()


def test_greedy_of_the_embedded_model_equals_plain_generation(smollm2_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    header = "Question: What is 1 + 1?\nSolution: 2\n\nQuestion: "
    asked = [header + q for q in ("What is 2 + 2?\nSolution:", "Name a colour.\nSolution:")]
    prompt_ids = tokenizer(text=asked)["input_ids"]
    assert greedy(model, prompt_ids, 16) == plain_greedy(model, prompt_ids, 16)


@pytest.mark.parametrize("header", [0, 23])
def test_greedy_equals_plain_generation_as_on_a_gpu(header: int, as_on_a_gpu: None) -> None:
    test_greedy_equals_plain_generation("qwen2", header)


@pytest.mark.parametrize("header", [0, 23])
def test_steps_of_fixed_shapes_give_the_same_tokens(
    header: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_attention, "_GROWTH", 6)
    model = get_peft_model(random_model("qwen3"), lora())
    whole = greedy(model, prompts(header))
    ends = {completion[4 * i + 2] for i, completion in enumerate(whole[:4])}

    def ended(*, cuda_graphs: bool) -> list[list[int]]:
        return generate(
            model,
            prompts(header),
            tokenizer=None,
            max_new_tokens=20,
            temperature=0,
            eos_token_ids=ends,
            cuda_graphs=cuda_graphs,
        )

    expected = ended(cuda_graphs=False)
    assert len({len(completion) for completion in expected}) > 1
    assert ended(cuda_graphs=True) == expected


@pytest.mark.parametrize("header", [0, 23])
def test_steps_of_fixed_shapes_give_the_same_tokens_as_on_a_gpu(
    header: int, monkeypatch: pytest.MonkeyPatch, as_on_a_gpu: None
) -> None:
    test_steps_of_fixed_shapes_give_the_same_tokens(header, monkeypatch)


def test_steps_for_cuda_graphs_have_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are halved and columns added in blocks; each shape needs a captured graph."""
    monkeypatch.setattr(decode_attention, "_GROWTH", 8)
    shapes: list[tuple[int, int]] = []
    forward = GraphedForward.__call__

    def recorded(step: GraphedForward, *args: Any) -> Tensor:
        shapes.append(step.attention.shape)
        return forward(step, *args)

    monkeypatch.setattr(GraphedForward, "__call__", recorded)
    model = random_model("llama")
    asked = [[*prompts(9)[0], token] for token in range(6, 38)]
    options: Any = {"tokenizer": None, "max_new_tokens": 16, "temperature": 0}
    whole = generate(model, asked, eos_token_ids=set(), **options)
    ends = {whole[i][i] for i in (2, 3, 5, 7)}
    generate(model, asked, eos_token_ids=ends, cuda_graphs=True, **options)
    rows, columns = zip(*dict.fromkeys(shapes), strict=True)
    assert {32, 16} <= set(rows) <= {32, 16, 8, 4, 2, 1}
    assert len(set(columns)) == 2
    assert len(set(shapes)) < len(shapes) / 2


def test_a_decode_step_waits_for_the_device_only_to_read_its_tokens(as_on_a_gpu: None) -> None:
    model = random_model("llama")

    def transfers_and_waits(num_tokens: int) -> int:
        """Count operations that transfer Python numbers to the device or wait for it."""
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            generate(
                model,
                prompts(9),
                tokenizer=None,
                max_new_tokens=num_tokens,
                temperature=1.0,
                top_k=20,
                top_p=0.9,
                eos_token_ids=set(),
            )
        names = ("aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero")
        return sum(event.count for event in profiler.key_averages() if event.key in names)

    assert transfers_and_waits(2) == transfers_and_waits(12) > 0


def test_sequences_that_end_early_are_dropped_and_leave_the_others_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model("llama")
    asked = [[*prompts(9)[0], token] for token in range(6, 26) for _ in range(2)]
    kept: list[int] = []

    def keep(attention: DecodeAttention, live: Tensor) -> None:
        kept.append(len(live))
        drop(attention, live)

    drop = DecodeAttention.keep
    monkeypatch.setattr(DecodeAttention, "keep", keep)

    def greedy(ends: set[int]) -> list[list[int]]:
        return generate(
            model, asked, tokenizer=None, max_new_tokens=16, temperature=0, eos_token_ids=ends
        )

    full = greedy(set())
    assert not kept
    ends = {full[i][i] for i in (2, 3, 5, 7)}
    for whole, part in zip(full, greedy(ends), strict=True):
        stop = next((i + 1 for i, t in enumerate(whole) if t in ends), len(whole))
        assert part == whole[:stop]
    assert len(kept) > 1
    assert kept == sorted(kept, reverse=True)


def test_a_completion_ends_with_the_token_that_completes_a_stop_string(smollm2_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir)
    prompt = tokenizer(
        "Question: What is 1 + 1?\nSolution: 2\n\nQuestion: What is 2 + 2?\nSolution:"
    ).input_ids
    arguments: Any = {
        "tokenizer": tokenizer,
        "max_new_tokens": 24,
        "temperature": 0,
        "eos_token_ids": set(),
    }
    [free] = generate(model, [prompt], **arguments)
    [stopped] = generate(model, [prompt], stop_strings=("never seen", "\n\nQuest"), **arguments)
    assert len(stopped) < len(free)
    assert stopped == free[: len(stopped)]
    assert "\n\nQuest" in tokenizer.decode(stopped)
    assert "\n\nQuest" not in tokenizer.decode(stopped[:-1])


def test_no_completion_has_ended_by_a_stop_string_when_none_is_left(smollm2_dir: Path) -> None:
    """The remaining completions may all end with an EOS token at once."""
    stops = StopStrings(AutoTokenizer.from_pretrained(smollm2_dir), ("Question:",))
    assert stops([]) == []


def test_modes_are_restored() -> None:
    model = random_model("llama").train()
    model.lm_head.eval()
    generate(
        model, prompts(0), tokenizer=None, max_new_tokens=1, temperature=0, eos_token_ids=set()
    )
    assert model.training
    assert model.model.layers[0].training
    assert not model.lm_head.training


def test_a_seed_makes_sampling_repeatable() -> None:
    model = random_model("llama")

    def sample(seed: int) -> list[list[int]]:
        return generate(
            model,
            prompts(9),
            tokenizer=None,
            max_new_tokens=8,
            temperature=1.0,
            eos_token_ids=set(),
            generator=torch.Generator().manual_seed(seed),
        )

    assert sample(0) == sample(0) != sample(1)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_give_no_token(
    temperature: float, options: dict[str, Any]
) -> None:
    logits = torch.zeros(5, 50)
    logits[0, 7] = logits[0, 9] = float("nan")
    logits[1, 49] = float("inf")
    logits[2] = float("-inf")
    logits[3] = float("nan")
    logits[4, 1:] = float("-inf")  # a vocabulary of one token
    sampler = Sampler(temperature, **options)
    assert sampler(logits).tolist() == [NOT_FINITE] * 4 + [0]


def test_filters_keep_the_tokens_that_transformers_keeps() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 50) * 2
    warpers: Any = LogitsProcessorList(
        [TopKLogitsWarper(20), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)]
    )
    expected = warpers(None, logits / 0.8).softmax(-1)
    sampler = Sampler(
        0.8, top_k=20, top_p=0.9, min_p=0.05, generator=torch.Generator().manual_seed(0)
    )
    counts = torch.zeros(4, 50)
    for _ in range(4000):
        counts[torch.arange(4), sampler(logits)] += 1
    assert (counts[expected == 0] == 0).all()
    assert (counts / 4000 - expected).abs().max() < 0.04
