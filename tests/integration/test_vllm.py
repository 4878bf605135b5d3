"""Train on completions drawn by vLLM: the real one where installed, otherwise a fake.

The fake replaces TRL's object that talks to vLLM.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer import grpo_trainer

from rlvr_trainer.grpo import rollout, trl_refusals
from rlvr_trainer.grpo.training import _leave_process_group, _trainer
from rlvr_trainer.recipe.trajectory import trajectory_of
from rlvr_trainer.run_dir.events import read_events

from .test_training import prepared_run, recipe_for

ANSWERS = (
    " 2 apples\n#### The final answer is 4\n\nQuestion: What",
    " a longer one that the limit ends",
    " 7<end>",
    " e\nQuestion:",
)


class FakeVLLMGeneration:
    """A fake of `trl.generation.vllm_generation.VLLMGeneration` that returns fixed texts."""

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

    monkeypatch.setattr(trl_refusals, "find_spec", lambda name: name)
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", FakeVLLMGeneration)
    monkeypatch.setattr(rollout, "complete", ours)
    recipe = recipe_for(
        tiny_model_dir, tmp_path, "grpo.use_vllm=true", "training.num_validation_rows=0"
    )
    run_dir = prepared_run(recipe, tmp_path / "run")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trainer = _trainer(trajectory_of(recipe), run_dir / "checkpoints", run_dir / "data")
    before = _trained(trainer)
    trainer.train()

    assert trainer.vllm_generation.options["generation_kwargs"] == {"stop": ["\nQuestion:"]}
    assert trainer.vllm_generation.num_syncs == 2  # one per step
    assert [text.rstrip() for text in list(trainer._logs["completion"])[:4]] == [
        " 2 apples\n#### The final answer is 4",
        " a longer one that the limit ends",
        " 7",
        " e",
    ]
    [first, second] = trainer.state.log_history[:2]
    assert first["completions/clipped_ratio"] == 0.25  # the completion without an end
    assert first["sampling/sampling_logp_difference/mean"] > 0  # TRL corrects vLLM's numbers
    assert (_trained(trainer) - before).abs().max() > 0
    assert second["grad_norm"] > 0


@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_itself_draws_by_the_weights_of_each_step(smollm2_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_for(
        smollm2_dir,
        tmp_path,
        "grpo={use_vllm: true, vllm_mode: colocate, vllm_max_model_length: 512}",
        "training.learning_rate=1e-2",
        "training.warmup_ratio=0",
        "training.num_validation_rows=0",
    )
    run_dir = prepared_run(recipe, tmp_path / "run")

    command = [sys.executable, "-m", "rlvr_trainer", "train", "--run-dir", str(run_dir)]
    with (run_dir / "train.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=300, check=True)

    steps = [e for e in read_events(run_dir / "metrics.jsonl") if e["event"] == "step"]
    # vLLM's numbers for the tokens are ours up to bfloat16: it has the weights that we train.
    assert [s["sampling/sampling_logp_difference/mean"] < 0.05 for s in steps] == [True, True]
    assert "Traceback" not in (run_dir / "train.log").read_text()


@pytest.mark.parametrize(
    ("use_vllm", "mode", "ended"),
    [(False, "colocate", True), (True, "server", True), (True, "colocate", False)],
)
def test_the_process_group_is_left_to_a_vllm_in_this_process(
    use_vllm: bool, mode: str, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append(None))

    _leave_process_group(SimpleNamespace(use_vllm=use_vllm, vllm_mode=mode))  # type: ignore[arg-type]

    assert bool(calls) == ended


def _trained(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])
