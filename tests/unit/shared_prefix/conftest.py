from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from rlvr_trainer.models import load_model
from rlvr_trainer.recipe.schema import ModelSection, QuantizationSection
from rlvr_trainer.shared_prefix import cpu

TEMPERATURE = 0.7
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


@dataclass
class Batch:
    input_ids: Tensor  # (B, P + C)
    attention_mask: Tensor
    num_completion_tokens: int


def random_model(architecture: str, **overrides: Any) -> PreTrainedModel:
    config_class, model_class = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 211,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
    }
    model = model_class(config_class(**{**shape, **overrides}))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero by default
            torch.nn.init.normal_(parameter, std=0.2)
        elif "norm" in name:  # one by default
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    return model


def random_batch(
    header: int, questions: list[int], rows: list[tuple[int, int]], seed: int = 0
) -> Batch:
    """Return a batch; `rows`: (question, completion length), padded by two columns."""
    g = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, 211, (n,), generator=g).tolist()

    shared, asked = tokens(header), [tokens(n) for n in questions]
    width = header + max(questions) + 1
    num_completion = max(n for _, n in rows) + 2
    ids = torch.ones(len(rows), width + num_completion, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (question, n) in enumerate(rows):
        prompt = shared + asked[question]
        ids[i, width - len(prompt) : width + n] = torch.tensor(prompt + tokens(n))
        mask[i, width - len(prompt) : width + n] = 1
    return Batch(ids, mask, num_completion)


def trl_scores(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies by TRL's own method, called without a trainer."""
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    log_probs, entropies, _ = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__(
        trainer,
        model,
        batch.input_ids,
        batch.attention_mask,
        batch.num_completion_tokens,
        compute_entropy=True,
    )
    return log_probs, entropies


def gradient(model: torch.nn.Module) -> Tensor:
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return torch.cat(grads)


@pytest.fixture
def ragged() -> Batch:
    """Return three questions in unsorted rows, one without completion, one of a single token."""
    return random_batch(
        37, [5, 9, 3], [(0, 7), (1, 12), (0, 12), (2, 1), (1, 4), (0, 0), (2, 12), (1, 12)]
    )


@pytest.fixture
def quantised(tmp_path: Path) -> PreTrainedModel:
    """Load a random model in nf4 as a run does."""
    random_model("llama", hidden_size=96, intermediate_size=192).save_pretrained(tmp_path)
    section = ModelSection(name=str(tmp_path), dtype="fp32")
    model = load_model(section, QuantizationSection(compute_dtype="fp32", storage_dtype="fp32"))
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    return model


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the GPU's code paths on the CPU; FlexAttention runs in its unfused form."""
    run_as_on_a_gpu(monkeypatch)


def run_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the CPU as a GPU.

    torch has no kernel for FlexAttention's backward on a CPU and refuses the unfused one too.
    """
    monkeypatch.setattr(cpu, "is_used", lambda device: False)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)


@pytest.fixture(params=[False, True], ids=["without AMX", "AMX"])
def has_amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Make the code see a CPU with or without AMX; return True for with."""
    value: bool = request.param
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: value)
    return value


LossOf = Callable[[Tensor, Tensor], Tensor]
