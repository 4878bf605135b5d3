"""Train in a run directory, from its recipe and data to a committed adapter.

It reads top to bottom: rows become prompts, TRL's GRPOTrainer trains on them from the newest
committed checkpoint (or the start), and the adapter is saved if it has changed. Differences from
plain TRL: completions end at the stop marker (`rollout`), those that could not be verified are left
out (`reward_functions`), shared prefixes are computed once (`shared_prefix`), checkpoints are
committed (`committing_trainer`), validation is greedy (`callbacks`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from safetensors import safe_open
from transformers import PrinterCallback
from transformers.trainer import TRAINER_STATE_NAME
from trl.models import unwrap_model_for_generation

from rlvr_trainer.data import at_most, data_hash, load_exemplars, load_rows, repeat_rows
from rlvr_trainer.errors import CheckpointError, PlatformError
from rlvr_trainer.evaluation.evaluate_model import Evaluator
from rlvr_trainer.grpo.arguments import grpo_config, lora_config, world_size
from rlvr_trainer.grpo.callbacks import (
    JudgeRewards,
    StepEvents,
    StopOnDivergence,
    StopOnSignal,
    Validation,
)
from rlvr_trainer.grpo.committing_trainer import DATA_HASH, RLVRTrainer, gather_objects
from rlvr_trainer.grpo.reward_functions import ROW, BatchScorer
from rlvr_trainer.grpo.rollout import Rollout
from rlvr_trainer.grpo.unchanged import unchanged_error
from rlvr_trainer.models import check_loaded, load_model, load_tokenizer
from rlvr_trainer.models.allocator import keep_freed_memory
from rlvr_trainer.models.chat_prompts import chat_template, end_of_turn
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.trajectory import (
    TRAJECTORY,
    Trajectory,
    check_continues,
    is_last,
    read_trajectory,
    trajectory_of,
)
from rlvr_trainer.rewards import build_rewards
from rlvr_trainer.run_dir import checkpoint
from rlvr_trainer.run_dir.events import emit, evaluation_line
from rlvr_trainer.run_dir.layout import ADAPTER, CHECKPOINTS
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout
from rlvr_trainer.tasks.reward_trial import try_rewards
from rlvr_trainer.variables import RUN_URI_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

RESUME_ONLY = (
    checkpoint.MARKER,
    DATA_HASH,
    TRAJECTORY,
    *("*.bin", "*.pt", "*.pth", "trainer_state.json", "global_step*", "latest", "zero_to_fp32.py"),
    "README.md",
)
"""Files of a checkpoint that a trained model does not need."""

logger = logging.getLogger(__name__)

# The rollout is an experimental interface of TRL, which warns at every start.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


def train(recipe: Recipe, run_dir: Path, data_dir: Path) -> bool:
    """Train the recipe's model and write `run_dir`/adapter; resume from the newest checkpoint.

    Returns False if a signal stopped it after a commit, from which another call resumes.
    Raises DataError, CheckpointError, RewardError, Diverged, PlatformError.
    """
    checkpoints = run_dir / CHECKPOINTS
    trajectory, resume = trajectory_of(recipe), checkpoint.to_resume(checkpoints)
    if resume:
        check_continues(read_trajectory(resume.path), trajectory, resume.path)
        _assert_same_data(resume, data_dir)
    if not torch.cuda.is_available():
        keep_freed_memory()
    is_trained = resume is not None and is_last(resume.path, recipe)
    if not is_trained:
        _assert_same_world_size(recipe, resume)
        stop = StopOnSignal()
        stop.install()
        trainer = _trainer(trajectory, checkpoints, data_dir)
        _assert_same_start(resume)
        trainer.add_callback(stop)
        if resume:
            logger.info("resuming from step %s", resume.step)
        trainer.train(resume_from_checkpoint=str(resume.path) if resume else None)
        _leave_process_group(trainer)
        if stop.stopped:
            return False
    if _is_main_process():
        last = resume.path if resume and is_trained else checkpoint.newest_committed(checkpoints)
        assert last is not None, "training ends with a commit"
        _place_adapter(recipe, last, run_dir / ADAPTER)
    return True


def _assert_same_data(resume: checkpoint.Checkpoint, data_dir: Path) -> None:
    """Raise CheckpointError if the checkpoint saw other rows, which may be test rows now."""
    if (resume.path / DATA_HASH).read_text("utf-8") != data_hash(data_dir):
        raise CheckpointError(
            f"{resume.path} was trained on other rows than those in {data_dir}, where its training "
            "rows may be test rows; train in another run directory, or with the same data"
        )


def _assert_same_world_size(recipe: Recipe, resume: checkpoint.Checkpoint | None) -> None:
    """Raise CheckpointError if ZeRO's shards are of another number of ranks."""
    if recipe.training.zero_stage and resume and resume.world_size != world_size():
        raise CheckpointError(
            f"{resume.path} was trained by {resume.world_size} processes, these are "
            f"{world_size()}; ZeRO's shards fit the same number only: train with "
            f"{resume.world_size}, or in another run directory"
        )


def _assert_same_start(resume: checkpoint.Checkpoint | None) -> None:
    """Raise PlatformError if the ranks resume from different checkpoints.

    Nodes that started at different times can see different ones; a retry sees the same.
    """
    own = (resume.path / checkpoint.MARKER).read_text("utf-8") if resume else None
    if len(set(gather_objects(own))) > 1:
        raise PlatformError(
            f"the nodes found different checkpoints, this one {resume.path if resume else 'none'}; "
            "start all of them again"
        )


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _is_first_of_node() -> bool:
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _trainer(trajectory: Trajectory, checkpoints: Path, data_dir: Path) -> RLVRTrainer:
    recipe = trajectory.recipe
    staging = checkpoints / checkpoint.STAGING
    if _is_main_process() or (RUN_URI_VARIABLE in os.environ and _is_first_of_node()):
        checkpoint.staging_dir(checkpoints)
    _join_process_group(recipe)
    tokenizer = load_tokenizer(recipe.model, recipe.prompt.chat_template)
    template = chat_template(recipe, tokenizer)
    ends = end_of_turn(tokenizer, template)
    arguments = grpo_config(recipe, staging, ends)
    layout = PromptLayout(recipe.prompt, load_exemplars(data_dir), template)
    rows = load_rows(data_dir, "train")
    if recipe.data.repeat_to_batch:  # the data step does not know the number of ranks
        rows = repeat_rows(rows, arguments.generation_batch_size // arguments.num_generations)
    rewards = build_rewards(recipe)
    try_rewards(rewards, layout, rows)
    scorer = BatchScorer(rewards, recipe.training.max_verifier_failures)
    model = load_model(recipe.model, recipe.quantization)
    check_loaded(recipe, model, tokenizer)
    trainer = RLVRTrainer(
        trajectory=trajectory,
        data_hash=data_hash(data_dir),
        checkpoints=checkpoints,
        model=model,
        processing_class=tokenizer,
        args=arguments,
        reward_funcs=scorer.reward_functions(),
        train_dataset=_dataset(rows, layout),
        peft_config=lora_config(recipe.lora) if recipe.lora else None,
        rollout_func=Rollout(recipe, ends),
        callbacks=[
            StepEvents(),
            StopOnDivergence(),
            JudgeRewards(lambda: scorer.check(gather_objects)),
        ],
    )
    trainer.remove_callback(PrinterCallback)  # StepEvents prints the steps
    validated = at_most(
        load_rows(data_dir, "validation"),
        recipe.training.num_validation_rows,
        f"validated-{recipe.seed}",
    )
    if validated:
        trainer.add_callback(
            Validation(
                lambda step: _validate(trainer, layout, validated, step, ends),
                recipe.training.validation_steps,
            )
        )
    return trainer


def _join_process_group(recipe: Recipe) -> None:
    """Choose gloo on CPUs, before accelerate does and before DeepSpeed shards the model.

    DeepSpeed only knows process groups that it made itself.
    """
    if torch.cuda.is_available() or world_size() == 1 or torch.distributed.is_initialized():
        return
    if recipe.training.zero_stage:
        import deepspeed

        deepspeed.init_distributed("gloo")
    else:
        torch.distributed.init_process_group("gloo")


def _leave_process_group(trainer: RLVRTrainer) -> None:
    """End the group's threads: one that still runs at exit can abort a finished rank.

    vLLM in this process has subgroups, and ends all groups at exit.
    """
    has_vllm = trainer.use_vllm and trainer.vllm_mode == "colocate"
    if torch.distributed.is_initialized() and not has_vllm:
        torch.distributed.destroy_process_group()


def _dataset(rows: Sequence[Row], layout: PromptLayout) -> Dataset:
    """Return one record per row: its prompt, and its columns for the rewards as JSON.

    Rows may have different columns, of types that a table cannot hold or with names that TRL uses.
    """
    return Dataset.from_list(
        [{"prompt": layout.prompt(row), ROW: json.dumps(row.columns)} for row in rows]
    )


def _validate(
    trainer: RLVRTrainer, layout: PromptLayout, rows: Sequence[Row], step: int, ends: set[int]
) -> None:
    """Emit the policy's greedy accuracy on the validation rows, divided between the ranks."""
    recipe, accelerator = trainer.recipe, trainer.accelerator
    share = rows[accelerator.process_index :: accelerator.num_processes]
    with unwrap_model_for_generation(
        trainer.model_wrapped,
        accelerator,
        gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
    ) as model:
        evaluator = Evaluator(recipe, model, trainer.processing_class, layout, "after", ends)
        samples = list(evaluator.greedy(share, recipe.prompt.num_shots))
    counts = torch.tensor(
        [len(samples), sum(s.correct for s in samples), sum(s.format for s in samples)],
        device=accelerator.device,
    )
    total, correct, formatted = accelerator.reduce(counts).tolist()
    if accelerator.is_main_process:
        emit(
            "evaluation",
            phase="train",
            step=step,
            done=total,
            total=total,
            accuracy=correct / total,
            format=formatted / total,
        )
        print(evaluation_line("train", correct / total, formatted / total), flush=True)


def _place_adapter(recipe: Recipe, committed: Path, target: Path) -> None:
    """Copy the trained weights and the tokenizer of the last checkpoint to `target`."""
    if recipe.lora:
        assert_adapter_learned(committed, recipe)
    aside = target.with_name(f".{target.name}")
    for folder in (aside, target):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(committed, aside, ignore=shutil.ignore_patterns(*RESUME_ONLY))
    aside.rename(target)


def assert_adapter_learned(adapter_dir: Path, recipe: Recipe) -> None:
    """Raise RLVRError if the adapter did not change: LoRA's B matrices start at zero."""
    with safe_open(adapter_dir / "adapter_model.safetensors", framework="pt") as file:
        started_at_zero = [name for name in file.keys() if "lora_B" in name]  # noqa: SIM118
        moved: Any = any(file.get_tensor(name).any() for name in started_at_zero)
    if moved:
        return
    state = json.loads((adapter_dir / TRAINER_STATE_NAME).read_text("utf-8"))
    raise unchanged_error(state["log_history"], recipe)
