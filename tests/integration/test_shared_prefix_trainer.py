"""SharedPrefixGRPOTrainer against TRL's own GRPOTrainer: the same completions, the same training.

Whole training runs in float32 on a random two-layer model. SGD, because Adam divides a gradient
that is rounding noise by its own size.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from rlvr_trainer.generation import Sampling, complete
from rlvr_trainer.models import load_model, load_tokenizer
from rlvr_trainer.recipe import ModelSection, QuantizationSection
from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer, SharedPrefixMismatch
from rlvr_trainer.shared_prefix import trainer as trainer_module

HEADER = "".join(f"Question: What is {n} + {n}?\nSolution: {2 * n}\n\n" for n in range(1, 5))
QUESTIONS = [f"Question: What is {n} times {n + 1}{'0' * (n % 3)}?\nSolution:" for n in range(10)]
NUM_STEPS = 5

MATRIX: dict[str, tuple[Any, ...]] = {
    "weights": ("lora", "qlora", "full"),
    "checkpointing": (None, "reentrant", "non-reentrant"),
    "beta": (0.0, 0.1),
    "num_iterations": (1, 2),
    "loss": ("grpo", "dapo", "dr_grpo", "bnpo", "gspo"),
    "entropy_coef": (0.0, 0.01),
    "header": (HEADER, ""),
}
Case = dict[str, Any]


def all_cases() -> list[Case]:
    return [dict(zip(MATRIX, values, strict=True)) for values in product(*MATRIX.values())]


def pairwise_cases() -> list[Case]:
    """Few cases in which every two values of different fields occur together, chosen greedily."""
    candidates, chosen = all_cases(), []
    open_pairs = {pair for case in candidates for pair in _pairs(case)}
    while open_pairs:
        best = max(candidates, key=lambda case: len(open_pairs & _pairs(case)))
        open_pairs -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(case: Case) -> set[Any]:
    return set(combinations(case.items(), 2))


def name_of(case: Case) -> str:
    shots = "header" if case["header"] else "no header"
    parts = [case["weights"], case["checkpointing"], case["loss"], shots]
    parts += [f"{name} {case[name]}" for name in ("beta", "num_iterations", "entropy_coef")]
    return ", ".join(str(part) for part in parts if part)


@pytest.fixture(autouse=True)
def _silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func warns, warnings are errors


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers whose tokens are printable characters."""
    folder = tmp_path_factory.mktemp("characters")
    vocabulary = {"<end>": 0, "\n": 1} | {chr(c): c - 30 for c in range(32, 127)}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.decoder = Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def completions_for(prompts: list[str]) -> list[list[int]]:
    """Ragged completions, decided by the prompt and the place in its group."""
    places: Counter[str] = Counter()
    completions = []
    for prompt in prompts:
        draw = random.Random(f"{prompt} {places[prompt]}")
        places[prompt] += 1
        completions.append([draw.randrange(2, 97) for _ in range(draw.randrange(1, 12))])
    return completions


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": tokenizer(text=prompts)["input_ids"],
        "completion_ids": completions_for(prompts),
        "logprobs": None,
    }


def vowels(completions: list[str], **_: Any) -> list[float]:
    return [sum(c in "aeiou" for c in completion) / 20 for completion in completions]


def in_half_of_the_groups(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Equal rewards, hence no advantage, for questions that end with a zero."""
    scores = vowels(completions)
    return [
        0.5 if prompt.endswith("0?\nSolution:") else score
        for prompt, score in zip(prompts, scores, strict=True)
    ]


def train(
    trainer_class: type[GRPOTrainer], case: Case, model_dir: Path, output_dir: Path, **options: Any
) -> GRPOTrainer:
    """Five steps of 2 × 8 completions in groups of 4; everything is computed in float32."""
    quantization = QuantizationSection(compute_dtype="fp32", storage_dtype="fp32")
    model_section = ModelSection(name=str(model_dir), dtype="fp32")
    tokenizer = load_tokenizer(model_section)
    model = load_model(model_section, quantization if case["weights"] == "qlora" else None)
    if case["weights"] == "qlora":
        evaluate_once(model, tokenizer)
    reentrant = case["checkpointing"] == "reentrant"
    torch.manual_seed(0)
    trainer = trainer_class(
        model=model,
        processing_class=tokenizer,
        reward_funcs=options.pop("reward_funcs", [vowels]),
        train_dataset=Dataset.from_dict({"prompt": [case["header"] + q for q in QUESTIONS]}),
        peft_config=None
        if case["weights"] == "full"
        else LoraConfig(
            r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
        ),
        rollout_func=rollout,
        args=GRPOConfig(
            output_dir=str(output_dir),
            max_steps=NUM_STEPS,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            num_generations=4,
            max_completion_length=12,
            gradient_checkpointing=case["checkpointing"] is not None,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant},
            beta=case["beta"],
            num_iterations=case["num_iterations"],
            loss_type="grpo" if case["loss"] == "gspo" else case["loss"],
            importance_sampling_level="sequence" if case["loss"] == "gspo" else "token",
            entropy_coef=case["entropy_coef"],
            optim="sgd",
            learning_rate=0.05,
            lr_scheduler_type="constant",
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        ),
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # TRL casts adapters of quantised models
    trainer.train()
    return trainer


def evaluate_once(model: Any, tokenizer: Any) -> None:
    """A greedy evaluation, after which bitsandbytes' packing would leave no gradient."""
    prompt_ids = tokenizer(text=[HEADER + QUESTIONS[0]])["input_ids"]
    complete(model, tokenizer, prompt_ids, sampling=Sampling(2), stop="Q", share_prefix=True)


def losses(trainer: GRPOTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(trainer: GRPOTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def assert_trains_as_trl_does(case: Case, model_dir: Path, folder: Path) -> None:
    expected = train(GRPOTrainer, case, model_dir, folder)
    actual = train(SharedPrefixGRPOTrainer, case, model_dir, folder)
    assert not actual._logged_reasons, "the plain path was taken"
    steps = actual.state.log_history[:NUM_STEPS]
    assert all(step["grad_norm"] > 0 for step in steps)
    assert losses(actual) == pytest.approx(losses(expected), abs=1e-4)
    torch.testing.assert_close(trained(actual), trained(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", pairwise_cases(), ids=name_of)
def test_it_trains_as_trl_does(case: Case, model_dir: Path, tmp_path: Path) -> None:
    assert_trains_as_trl_does(case, model_dir, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", all_cases(), ids=name_of)
def test_it_trains_as_trl_does_in_every_case(case: Case, model_dir: Path, tmp_path: Path) -> None:
    assert_trains_as_trl_does(case, model_dir, tmp_path)


SIMPLE: Case = {name: values[0] for name, values in MATRIX.items()}


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_sequences_without_advantage_are_left_out_where_they_have_no_gradient(
    beta: float, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SIMPLE | {"beta": beta}
    left_out: list[int] = []
    packed = trainer_module.token_log_probs

    def counting(*args: Any, rows: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if rows is not None:
            left_out.append(int((~rows).sum()))
        return packed(*args, rows=rows, **kwargs)

    monkeypatch.setattr(trainer_module, "token_log_probs", counting)
    options: Any = {"reward_funcs": [in_half_of_the_groups]}
    expected = train(GRPOTrainer, case, model_dir, tmp_path, **options)
    actual = train(SharedPrefixGRPOTrainer, case, model_dir, tmp_path, **options)
    assert (sum(left_out) > 0) == (beta == 0.0)
    assert losses(actual) == pytest.approx(losses(expected), abs=1e-4)
    torch.testing.assert_close(trained(actual), trained(expected), atol=1e-5, rtol=1e-4)


def test_a_packed_forward_that_differs_from_the_plain_one_stops_the_training(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = trainer_module.token_log_probs

    def wrong(*args: Any, **kwargs: Any) -> Any:
        log_probs, entropies = packed(*args, **kwargs)
        return log_probs * 1.001, entropies

    monkeypatch.setattr(trainer_module, "token_log_probs", wrong)
    with pytest.raises(SharedPrefixMismatch, match="set shared_prefix to off"):
        train(SharedPrefixGRPOTrainer, SIMPLE, model_dir, tmp_path)


def test_what_cannot_be_packed_takes_the_plain_path_and_says_why_once(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: Any = {"cast_lm_head_to_fp32": True}
    case = SIMPLE | {"weights": "full"}
    expected = train(GRPOTrainer, case, model_dir, tmp_path, **options)
    actual = train(SharedPrefixGRPOTrainer, case, model_dir, tmp_path, **options)
    assert losses(actual) == losses(expected)
    said = [r.message for r in caplog.records if "Shared prefixes are not used" in r.message]
    assert said == ["Shared prefixes are not used: cast_lm_head_to_fp32 is set."]


def test_a_group_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 generations"):
        GRPOConfig(output_dir=str(tmp_path), num_generations=1, use_cpu=True, bf16=False)
