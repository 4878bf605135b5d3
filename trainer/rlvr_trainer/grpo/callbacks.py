"""Callbacks of the training: events, greedy validation, stopping."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rlvr_trainer.errors import Diverged
from rlvr_trainer.run_dir.events import emit

MAX_NOT_FINITE_STEPS = 3


class StepEvents(TrainerCallback):
    """Write an event for each optimizer step, with TRL's own names and numbers."""

    def __init__(self) -> None:
        self._last_tokens = 0.0
        self._last_time = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._last_time = time.monotonic()
        self._last_tokens = float(state.num_input_tokens_seen)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return  # the summary at the end of training is not a step
        numbers = {key: value for key, value in logs.items() if isinstance(value, int | float)}
        # A step that reuses the completions of an earlier one has no new tokens.
        now, tokens = time.monotonic(), float(logs.get("num_tokens", self._last_tokens))
        elapsed = now - self._last_time
        numbers["tokens_per_second"] = (tokens - self._last_tokens) / elapsed if elapsed else 0.0
        numbers["step_time"] = elapsed
        self._last_time, self._last_tokens = now, tokens
        emit("step", step=state.global_step, max_steps=state.max_steps, **_json_numbers(numbers))
        print(step_line(state.global_step, state.max_steps, numbers), flush=True)


def step_line(step: int, max_steps: int, numbers: Mapping[str, float]) -> str:
    """Return the line that the log shows for an optimizer step, from TRL's numbers."""
    rewards = {
        key.removeprefix("rewards/").removesuffix("/mean"): value
        for key, value in numbers.items()
        if key.startswith("rewards/") and key.endswith("/mean")
    }
    words = [f"step {step}/{max_steps}"]
    words += [f"reward {numbers['reward']:.3f}"] if "reward" in numbers else []
    if len(rewards) > 1:
        words += [f"{name} {value:.3f}" for name, value in rewards.items()]
    length = numbers.get("completions/mean_length")
    words += [f"length {length:.0f}"] if length is not None else []
    words += [f"loss {numbers['loss']:.4f}"] if "loss" in numbers else []
    words += [f"{numbers['tokens_per_second']:.0f} tokens/s", f"{numbers['step_time']:.1f} s"]
    return "  ".join(words)


class Validation(TrainerCallback):
    """Evaluate the validation rows greedily, every `every_steps` steps and after the last one."""

    def __init__(self, evaluate: Callable[[int], None], every_steps: int | None) -> None:
        self.evaluate = evaluate
        self.every_steps = every_steps

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        last = state.global_step >= state.max_steps
        if last or (self.every_steps and state.global_step % self.every_steps == 0):
            self.evaluate(state.global_step)


class JudgeRewards(TrainerCallback):
    """Check the rewards after the last step, before it is committed."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            self.check()


class StopOnDivergence(TrainerCallback):
    """Raise Diverged, without saving, if loss or gradient is not finite for several steps."""

    def __init__(self) -> None:
        self.num_not_finite = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        watched = [value for key, value in (logs or {}).items() if key in {"loss", "grad_norm"}]
        if not watched:
            return
        finite = all(math.isfinite(float(value)) for value in watched)
        self.num_not_finite = 0 if finite else self.num_not_finite + 1
        if self.num_not_finite >= MAX_NOT_FINITE_STEPS:
            raise Diverged(
                f"loss or gradient was not finite for {MAX_NOT_FINITE_STEPS} steps up to step "
                f"{state.global_step}; the last checkpoint is kept: lower training.learning_rate "
                "or training.max_grad_norm"
            )


class StopOnSignal(TrainerCallback):
    """On SIGTERM or SIGINT to any rank, let all ranks commit the same step and stop."""

    def __init__(self) -> None:
        self.requested = False
        self.stopped = False

    def install(self) -> None:
        """Install the signal handlers; call it from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._any_rank_requested() and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def _any_rank_requested(self) -> bool:
        if not torch.distributed.is_initialized():
            return self.requested
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        flag = torch.tensor(int(self.requested), device=device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())


def _json_numbers(numbers: dict[str, float]) -> dict[str, float | None]:
    """Replace numbers that JSON cannot hold (NaN, infinity) by None."""
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}
