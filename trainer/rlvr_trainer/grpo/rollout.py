"""The rollout: completions for TRL, cut where the answer ends.

A base model seldom emits its end-of-sequence token; it continues with another question. A
completion with the stop marker is cut there and gets an end token, so that TRL does not count it as
truncated. The policy did not sample that token: it is masked out of the loss.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from trl.models import unwrap_model_for_generation

from rlvr_trainer.errors import Diverged
from rlvr_trainer.evaluation.completions import Completion, Sampling, complete, cut, end_tokens
from rlvr_trainer.grpo.reward_functions import SEEN
from rlvr_trainer.models.chat_prompts import prompt_ids
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.shared_prefix import LogitsNotFinite

if TYPE_CHECKING:
    from trl import GRPOTrainer


LogProbs = list[list[float | None]]


class Rollout:
    """TRL's `rollout_func`: completions of the current policy, by vLLM if the trainer uses it.

    Raises Diverged.
    """

    def __init__(self, recipe: Recipe, end_of_turn: Collection[int] = ()) -> None:
        self.prompt = recipe.prompt
        self.end_of_turn = set(end_of_turn)
        self.share_prefix = recipe.shared_prefix == "on"
        self.sampling = Sampling(
            max_new_tokens=recipe.sampling.max_completion_tokens,
            temperature=recipe.sampling.temperature,
            top_p=recipe.sampling.top_p,
            top_k=recipe.sampling.top_k,
            min_p=recipe.sampling.min_p,
        )

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        tokenizer = trainer.processing_class
        ids = prompt_ids(tokenizer, prompts, self.prompt.style)
        draw = self._with_vllm if trainer.use_vllm else self._with_model
        try:
            completions, log_probs = draw(ids, trainer)
        except LogitsNotFinite as error:
            raise Diverged(
                f"{error} after {trainer.state.global_step} steps; the last checkpoint is kept: "
                "lower training.learning_rate, or check the weights of model.name if no step was "
                "trained"
            ) from error
        rollout = to_trl(ids, completions, tokenizer.eos_token_id, log_probs)
        if self.prompt.style == "chat":
            prefix = self.prompt.assistant_prefix
            rollout[SEEN] = [prefix + completion.text for completion in completions]
        return rollout

    def _with_model(
        self, prompt_ids: list[list[int]], trainer: GRPOTrainer
    ) -> tuple[list[Completion], None]:
        with unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
        ) as model:
            completions = complete(
                model,
                trainer.processing_class,
                prompt_ids,
                sampling=self.sampling,
                stop=self.prompt.stop,
                share_prefix=self.share_prefix,
                end_of_turn=self.end_of_turn,
            )
        return completions, None

    def _with_vllm(
        self, prompt_ids: list[list[int]], trainer: GRPOTrainer
    ) -> tuple[list[Completion], LogProbs]:
        """Generate with TRL's own vLLM client, which has the current weights by now."""
        drawn: list[list[int]]
        drawn, log_probs = trainer._generate_single_turn(
            prompt_ids, None, {}, trainer.num_generations
        )
        tokenizer = trainer.processing_class
        ends = end_tokens(trainer.model, tokenizer) | self.end_of_turn
        return [cut(ids, tokenizer, self.prompt.stop, ends) for ids in drawn], log_probs


def to_trl(
    prompt_ids: Sequence[list[int]],
    completions: Sequence[Completion],
    eos_token_id: int,
    log_probs: LogProbs | None = None,
) -> dict[str, Any]:
    """Return the rollout in TRL's format; `env_mask` is 1 where the policy sampled the token.

    `log_probs` are those of the tokens before the cut.
    """
    ends = [_needs_end(completion, eos_token_id) for completion in completions]
    kept = [len(completion.token_ids) for completion in completions]
    return {
        "prompt_ids": list(prompt_ids),
        "completion_ids": [
            completion.token_ids + [eos_token_id] * end
            for completion, end in zip(completions, ends, strict=True)
        ],
        "env_mask": [[1] * n + [0] * end for n, end in zip(kept, ends, strict=True)],
        "logprobs": log_probs
        and [
            drawn[:n] + [None] * end  # TRL's value for a token without a score
            for drawn, n, end in zip(log_probs, kept, ends, strict=True)
        ],
    }


def _needs_end(completion: Completion, eos_token_id: int) -> bool:
    if not completion.token_ids:
        return True  # TRL cannot handle an empty one
    return completion.finished and completion.token_ids[-1] != eos_token_id
