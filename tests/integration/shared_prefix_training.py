"""Train a tiny model by TRL's own trainer or ours, on given completions.

Everything is float32. SGD is used because Adam divides a gradient of rounding noise by its size.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
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

from rlvr_trainer.evaluation.completions import Sampling, complete
from rlvr_trainer.grpo.deepspeed_config import zero_config
from rlvr_trainer.models import load_model, load_tokenizer
from rlvr_trainer.recipe.schema import ModelSection, QuantizationSection
from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer

HEADER = "".join(f"Question: What is {n} + {n}?\nSolution: {2 * n}\n\n" for n in range(1, 5))
QUESTIONS = [f"Question: What is {n} times {n + 1}{'0' * (n % 3)}?\nSolution:" for n in range(10)]
NUM_STEPS = 3
BATCH_SIZE = 8  # of all ranks, in one of two micro-steps

Case = dict[str, Any]
Matrix = dict[str, tuple[Any, ...]]


def all_cases(matrix: Matrix) -> list[Case]:
    return [dict(zip(matrix, values, strict=True)) for values in product(*matrix.values())]


def pairwise_cases(matrix: Matrix, field: str = "") -> list[Case]:
    """Choose greedily few cases in which every two values of different fields occur together.

    With `field`, cover only the pairs that contain one of its values.
    """

    def pairs(case: Case) -> set[Any]:
        every = combinations(case.items(), 2)
        return {(a, b) for a, b in every if not field or field in (a[0], b[0])}

    candidates, chosen = all_cases(matrix), []
    open_pairs = {pair for case in candidates for pair in pairs(case)}
    while open_pairs:
        best = max(candidates, key=lambda case: len(open_pairs & pairs(case)))
        open_pairs -= pairs(best)
        chosen.append(best)
    return chosen


def name_of(case: Case) -> str:
    zero = f"ZeRO-{case['zero']}" if "zero" in case else None
    shots = "header" if case["header"] else "no header"
    parts = [zero, case["weights"], case["checkpointing"], case["loss"], shots]
    parts += [f"{name} {case[name]}" for name in ("beta", "num_iterations", "entropy_coef")]
    return ", ".join(str(part) for part in parts if part)


def character_model(
    folder: Path, model_class: Any = LlamaForCausalLM, config_class: Any = LlamaConfig, **shape: Any
) -> Path:
    """Save a random model of two layers whose tokens are printable characters."""
    vocabulary = {"<end>": 0, "\n": 1} | {chr(c): c - 30 for c in range(32, 127)}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.decoder = Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = config_class(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        **shape,
    )
    model_class(config).save_pretrained(folder)
    return folder


def assert_trains_as_trl_does(case: Case, *args: Any, **options: Any) -> None:
    expected = train(GRPOTrainer, case, *args, **options)
    actual = train(SharedPrefixGRPOTrainer, case, *args, **options)
    assert_same_training(Outcome.of(actual), Outcome.of(expected))


def train(
    trainer_class: Callable[..., GRPOTrainer],
    case: Case,
    model_dir: Path,
    output_dir: Path,
    **options: Any,
) -> GRPOTrainer:
    """Train in steps of 2 × 8 completions in groups of 4."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    reward = options.pop("reward", vowels)
    prompts = options.pop("prompts", None) or [case["header"] + q for q in QUESTIONS]
    rollout_func = options.pop("rollout", rollout)
    num_steps = options.pop("num_steps", NUM_STEPS)
    dtype = options.pop("dtype", "fp32")
    arguments = GRPOConfig(  # before the model: with ZeRO-3 it is sharded while it is loaded
        output_dir=str(output_dir),
        deepspeed=zero_config(case["zero"], bf16=False) if "zero" in case else None,
        max_steps=num_steps,
        per_device_train_batch_size=BATCH_SIZE // world_size,
        gradient_accumulation_steps=2,
        num_generations=4,
        max_completion_length=12,
        gradient_checkpointing=case["checkpointing"] is not None,
        gradient_checkpointing_kwargs={"use_reentrant": case["checkpointing"] == "reentrant"},
        beta=case["beta"],
        num_iterations=case["num_iterations"],
        loss_type="grpo" if case["loss"] == "gspo" else case["loss"],
        importance_sampling_level="sequence" if case["loss"] == "gspo" else "token",
        entropy_coef=case["entropy_coef"],
        optim="sgd",
        learning_rate=0.05,
        lr_scheduler_type="constant",
        bf16=dtype == "bf16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    quantization = QuantizationSection(compute_dtype="fp32", storage_dtype="fp32")
    model_section = ModelSection(name=str(model_dir), dtype=dtype)
    tokenizer = load_tokenizer(model_section)
    model = load_model(model_section, quantization if case["weights"] == "qlora" else None)
    if case["weights"] == "qlora":
        evaluate_once(model, tokenizer)
    torch.manual_seed(0)
    trainer = trainer_class(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[reward],
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        peft_config=None
        if case["weights"] == "full"
        else LoraConfig(
            r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
        ),
        rollout_func=rollout_func,
        args=arguments,
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and dtype == "fp32":
            parameter.data = parameter.data.float()  # TRL casts adapters of quantised models
    trainer.train()
    return trainer


def evaluate_once(model: Any, tokenizer: Any) -> None:
    """Evaluate greedily; bitsandbytes' packing would leave no gradient afterwards."""
    prompt_ids = tokenizer(text=[HEADER + QUESTIONS[0]])["input_ids"]
    complete(model, tokenizer, prompt_ids, sampling=Sampling(2), stop="Q", share_prefix=True)


def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": tokenizer(text=prompts)["input_ids"],
        "completion_ids": completions_for(prompts),
        "logprobs": None,
    }


def completions_for(prompts: list[str]) -> list[list[int]]:
    """Return ragged completions, determined by the prompt and the index in its group."""
    places: Counter[str] = Counter()
    completions = []
    for prompt in prompts:
        draw = random.Random(f"{prompt} {places[prompt]}")
        places[prompt] += 1
        completions.append([draw.randrange(2, 97) for _ in range(draw.randrange(1, 12))])
    return completions


def vowels(completions: list[str], **_: Any) -> list[float]:
    return [sum(c in "aeiou" for c in completion) / 20 for completion in completions]


def in_half_of_the_groups(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Return equal rewards, hence no advantage, for questions that end with a zero."""
    scores = vowels(completions)
    return [
        0.5 if prompt.endswith("0?\nSolution:") else score
        for prompt, score in zip(prompts, scores, strict=True)
    ]


def equal(completions: list[str], **_: Any) -> list[float]:
    """Return equal rewards, hence no advantage, for all completions."""
    return [1.0] * len(completions)


@dataclass(frozen=True)
class Outcome:
    """The result of a training."""

    losses: list[float]
    grad_norms: list[float]
    entropies: list[float]
    weights: torch.Tensor
    plain_reasons: list[str]
    """The reason for which the plain path was taken."""

    @classmethod
    def of(cls, trainer: GRPOTrainer) -> Outcome:
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        return cls(
            [step["loss"] for step in steps],
            [step["grad_norm"] for step in steps],
            [step["entropy"] for step in steps],
            _trained(trainer),
            sorted(getattr(trainer, "_logged_reasons", ())),
        )


def _trained(trainer: GRPOTrainer) -> torch.Tensor:
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    whole: Any = nullcontext()
    if hasattr(parameters[0], "ds_id"):
        import deepspeed

        whole = deepspeed.zero.GatheredParameters(parameters)
    with whole:
        return torch.cat([p.detach().flatten() for p in parameters]).cpu()


def assert_same_training(actual: Outcome, expected: Outcome) -> None:
    assert not actual.plain_reasons, "the plain path was taken"
    assert all(norm > 0 for norm in actual.grad_norms)
    assert actual.losses == pytest.approx(expected.losses, abs=1e-4)
    # Of the computed rows, which are not always all.
    assert actual.entropies == pytest.approx(expected.entropies, rel=0.02)
    torch.testing.assert_close(actual.weights, expected.weights, atol=1e-5, rtol=1e-4)


def train_cases_as_rank(arguments: list[str]) -> None:
    """Train every case of a file on all ranks; rank 0 writes the results of both trainers.

    A program whose arguments are the model, the file, the folder of results and the steps.
    """
    import deepspeed
    from accelerate.state import AcceleratorState

    model_dir, cases_file, results_dir = map(Path, arguments[:3])
    num_steps = int(arguments[3])
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    for index, case in enumerate(json.loads(cases_file.read_text())):
        result = {}
        for trainer_class in (GRPOTrainer, SharedPrefixGRPOTrainer):
            AcceleratorState._reset_state()  # it keeps the ZeRO stage of its first use
            trainer = train(
                trainer_class,
                case,
                model_dir,
                results_dir,
                reward=in_half_of_the_groups,
                num_steps=num_steps,
            )
            result[trainer_class.__name__] = Outcome.of(trainer)  # all ranks gather the weights
        if os.environ["RANK"] == "0":
            torch.save(
                {name: vars(outcome) for name, outcome in result.items()},
                results_dir / f"{index}.pt",
            )
    torch.distributed.destroy_process_group()
