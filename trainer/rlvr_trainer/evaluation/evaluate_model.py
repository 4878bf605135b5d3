"""Evaluate a model on test rows, with the same prompts and stop marker for every model.

Only the completion is scored. All samples are kept, so that models can be compared row by row and
the counts can be checked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlvr_trainer.data import load_exemplars
from rlvr_trainer.errors import Diverged, RewardError
from rlvr_trainer.evaluation.completions import Completion, Sampling, complete
from rlvr_trainer.evaluation.outcome import Shares, headline, write_samples
from rlvr_trainer.evaluation.shards import Batch, Shard, batches, evaluated_rows, greedy_batches
from rlvr_trainer.models import check_loaded, load_model, load_tokenizer, load_trained
from rlvr_trainer.phases import EVALUATION_PHASES
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import (
    Reward,
    build_judge,
    build_rewards,
    extract_answer,
    format_reward,
    is_correct_number,
    last_number,
)
from rlvr_trainer.run_dir.events import emit, evaluation_line
from rlvr_trainer.run_dir.layout import SAMPLES
from rlvr_trainer.shared_prefix import LogitsNotFinite
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout
from rlvr_trainer.tasks.reward_trial import try_rewards

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROGRESS_EVERY = 8

_NOT_FINITE_ADVICE = {
    "before": "check the weights of model.name, and set model.dtype to the type they were made for",
    "after": "the training diverged: lower training.learning_rate and train again",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One completion of a test row with its scores: a line of `samples.jsonl`."""

    model: str
    """`before` or `after` training."""
    shots: int
    id: str
    question: str
    answer: str
    completion: str
    extracted: str | None
    """The answer that the verifier saw."""
    format: bool
    correct: bool
    """Judged by the recipe's `evaluation.correct_by`."""
    flexible: bool
    """Judged by the last number in the completion."""
    num_tokens: int
    sample: int = 0
    greedy: bool = True


@dataclass(frozen=True)
class Evaluator:
    """A model, and the recipe and prompts to evaluate it with."""

    recipe: Recipe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layout: PromptLayout
    label: str
    """`before` or `after`."""
    unjudged: list[str] = field(default_factory=list)
    """IDs of rows with a completion that could not be judged; it counts as wrong."""

    @cached_property
    def judge(self) -> Reward:
        """The verifier that decides if a completion is correct."""
        return build_judge(self.recipe)

    def greedy(self, rows: Sequence[Row], num_shots: int) -> Iterator[Sample]:
        """Yield a greedy sample of each row, in order."""
        size = self.recipe.evaluation.batch_size
        return chain.from_iterable(map(self.samples, greedy_batches(rows, num_shots, size)))

    def samples(self, batch: Batch) -> Iterator[Sample]:
        """Yield the samples of a batch, in order. Raises Diverged."""
        if batch.temperature:  # greedy batches must not change the random state of a training
            torch.manual_seed(batch.seed)
        prompts = [self.layout.prompt(row, batch.num_shots) for row, _ in batch.requests]
        try:
            completions = complete(
                self.model,
                self.tokenizer,
                self.tokenizer(text=prompts)["input_ids"],
                sampling=Sampling(self.recipe.evaluation_max_completion_tokens, batch.temperature),
                stop=self.recipe.prompt.stop,
                share_prefix=self.recipe.shared_prefix == "on",
            )
        except LogitsNotFinite as error:
            raise Diverged(
                f"{error} from {batch.requests[0][0].id} on, so that its accuracy would be "
                f"meaningless; {_NOT_FINITE_ADVICE[self.label]}"
            ) from error
        for (row, index), completion in zip(batch.requests, completions, strict=True):
            yield replace(
                self._judge(row, completion, batch.num_shots),
                sample=index,
                greedy=not batch.temperature,
            )

    def _judge(self, row: Row, completion: Completion, num_shots: int) -> Sample:
        prompt, text = self.recipe.prompt, completion.text
        marker, stop = prompt.answer_marker, prompt.stop
        verdict = self.judge(text, row.columns)
        if verdict is None:
            self.unjudged.append(row.id)
        return Sample(
            model=self.label,
            shots=num_shots,
            id=row.id,
            question=row.question,
            answer=row.answer,
            completion=text,
            extracted=extract_answer(text, marker=marker, stop=stop),
            format=bool(format_reward(text, marker=marker, stop=stop)),
            correct=verdict is not None and verdict > 0,
            flexible=is_correct_number(last_number(text, stop=stop), row.answer),
            num_tokens=len(completion.token_ids),
        )


def evaluate_model(
    recipe: Recipe,
    data_dir: Path,
    output_dir: Path,
    *,
    label: str,
    adapter_dir: Path | None = None,
) -> Shares:
    """Evaluate the base model, or with an adapter the trained one, on the test rows of `data_dir`.

    Writes `samples.jsonl` to `output_dir` atomically, and returns accuracy, format and flexible at
    the shots that were trained (or else the most that were evaluated).
    """
    samples = evaluate_shard(recipe, data_dir, Shard(), label=label, adapter_dir=adapter_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_samples(output_dir / SAMPLES, samples)
    return headline(samples, recipe)


def evaluate_shard(
    recipe: Recipe, data_dir: Path, shard: Shard, *, label: str, adapter_dir: Path | None = None
) -> list[dict[str, Any]]:
    """Return the samples of one shard of the evaluation, in order.

    Raises ConfigError for a reward that cannot be loaded or fails on gold completions, before the
    model is loaded, and RewardError if a larger share than `training.max_verifier_failures` cannot
    be judged.
    """
    rewards = build_rewards(recipe)  # only to fail now rather than in the training
    rows = evaluated_rows(recipe, data_dir)
    layout = PromptLayout(recipe.prompt, load_exemplars(data_dir))
    try_rewards(rewards, layout, rows)
    own_batches = shard.of(batches(recipe, rows))
    if not own_batches:  # more shards than batches
        return []
    tokenizer = load_tokenizer(recipe.model)
    if adapter_dir is None:
        model = load_model(recipe.model, recipe.quantization)
        check_loaded(recipe, model, tokenizer)
    else:
        model = load_trained(recipe, adapter_dir)
    if torch.cuda.is_available() and not recipe.quantization:  # quantised weights are there already
        model.to("cuda")
    evaluator = Evaluator(recipe, model.eval(), tokenizer, layout, label)
    samples = [asdict(sample) for sample in _with_progress(evaluator, own_batches)]
    _check_judged(evaluator, len(samples))
    return samples


def _check_judged(evaluator: Evaluator, num_samples: int) -> None:
    """Warn about completions that could not be judged, or raise RewardError if too many."""
    recipe, failed = evaluator.recipe, evaluator.unjudged
    if not failed:
        return
    what = (
        f"{len(failed)} of {num_samples} completions could not be judged by "
        f"evaluation.correct_by = {recipe.evaluation.correct_by}, first that of {failed[0]}"
    )
    if len(failed) > recipe.training.max_verifier_failures * num_samples:
        raise RewardError(
            f"{what}, over training.max_verifier_failures = "
            f"{recipe.training.max_verifier_failures}; fix the reward: {evaluator.judge.failure}"
        )
    logger.warning("%s; they count as wrong", what)


def _with_progress(evaluator: Evaluator, own_batches: Sequence[Batch]) -> Iterator[Sample]:
    phase = EVALUATION_PHASES[evaluator.label]
    total = sum(len(batch.requests) for batch in own_batches)
    judged = correct = formatted = 0
    drawn = chain.from_iterable(map(evaluator.samples, own_batches))
    for done, sample in enumerate(drawn, start=1):
        if sample.greedy:  # sampled ones count only for pass@k
            judged += 1
            correct += sample.correct
            formatted += sample.format
        if done % PROGRESS_EVERY == 0 or done == total:
            emit(
                "evaluation",
                phase=phase,
                done=done,
                total=total,
                # a shard may have only sampled completions
                accuracy=correct / judged if judged else None,
                format=formatted / judged if judged else None,
            )
        if done == total and judged:
            print(evaluation_line(phase, correct / judged, formatted / judged), flush=True)
        yield sample
