"""A training whose completions vLLM draws, with a fake of TRL's object that speaks to vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer import grpo_trainer

from rlvr_trainer.grpo import arguments, rollout
from rlvr_trainer.grpo.run import _trainer

from .test_training import prepared_run, recipe_for

ANSWERS = (
    " 2 apples\n#### The final answer is 4\n\nQuestion: What",
    " a longer one that the limit ends",
    " 7<end>",
    " e\nQuestion:",
)


class FakeVLLMGeneration:
    """Answers as `trl.generation.vllm_generation.VLLMGeneration` does, from fixed texts."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.num_syncs = 0

    def sync_weights(self) -> None:
        self.num_syncs += 1

    def generate(self, prompts: list[list[int]], **_: Any) -> Any:
        tokenizer = self.options["processing_class"]
        texts = [
            ANSWERS[i % len(ANSWERS)].replace("<end>", tokenizer.eos_token)
            for i in range(len(prompts))
        ]
        completions = tokenizer(text=texts)["input_ids"]
        log_probs = [[[-5.0] for _ in ids] for ids in completions]
        return prompts, completions, log_probs, None


def test_vllm_draws_and_completions_are_cut_and_ended_as_ours_are(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ours(*_: Any, **__: Any) -> None:
        raise AssertionError("drawn by us")

    monkeypatch.setattr(arguments, "is_vllm_available", lambda: True)
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", FakeVLLMGeneration)
    monkeypatch.setattr(rollout, "complete", ours)
    recipe = recipe_for(
        tiny_model_dir, tmp_path, "grpo.use_vllm=true", "training.num_validation_rows=0"
    )
    run_dir = prepared_run(recipe, tmp_path / "run")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trainer = _trainer(recipe, run_dir / "checkpoints", run_dir / "data")
    before = _trained(trainer)
    trainer.train()

    assert trainer.vllm_generation.options["generation_kwargs"] == {"stop": ["\nQuestion:"]}
    assert trainer.vllm_generation.num_syncs == 2  # one a step
    assert [text.rstrip() for text in list(trainer._logs["completion"])[:4]] == [
        " 2 apples\n#### The final answer is 4",
        " a longer one that the limit ends",
        " 7",
        " e",
    ]
    [first, second] = trainer.state.log_history[:2]
    assert first["completions/clipped_ratio"] == 0.25  # the one without an end
    assert first["sampling/sampling_logp_difference/mean"] > 0  # TRL corrects vLLM's numbers
    assert (_trained(trainer) - before).abs().max() > 0
    assert second["grad_norm"] > 0


def _trained(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
