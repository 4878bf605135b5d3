"""Evaluate a model on test rows, with the same prompts and stop marker for every model.

Only the completion is scored. All samples are kept, so that models can be compared row by row and
the counts can be checked.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
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
from rlvr_trainer.models.chat_prompts import chat_template, end_of_turn, prompt_ids
from rlvr_trainer.phases import EVALUATION_PHASES
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.rewards import Case, Reward, VerifierReward, build_judge, build_rewards
from rlvr_trainer.run_dir.events import emit, evaluation_line
from rlvr_trainer.run_dir.layout import SAMPLES
from rlvr_trainer.shared_prefix import LogitsNotFinite
from rlvr_trainer.tasks import Row
from rlvr_trainer.tasks.prompt import PromptLayout
from rlvr_trainer.tasks.reward_trial import try_rewards
from rlvr_trainer.verifiers import Number, Verifier

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
    """As verifiers saw it: after `prompt.assistant_prefix`."""
    extracted: str | None
    """The one answer, if it is of the kind that is judged."""
    format: bool
    correct: bool
    """Judged by the recipe's `evaluation.correct_by`."""
    flexible: bool
    """Judged by the last number in the completion; as `correct` where other answers are judged."""
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
    end_of_turn: Collection[int] = ()
    """Tokens that end a completion beside the model's own."""
    unjudged: list[str] = field(default_factory=list)
    """IDs of rows with a completion that could not be judged; it counts as wrong."""

    @cached_property
    def judge(self) -> Reward:
        """The verifier that decides if a completion is correct."""
        return build_judge(self.recipe)

    @cached_property
    def kind(self) -> Verifier:
        """The verifier that says what a well-formed answer is."""
        judge = self.judge
        if isinstance(judge, VerifierReward) and judge.verifier.reads_answer:
            return judge.verifier
        return self.recipe.answer_kind

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
                prompt_ids(self.tokenizer, prompts, self.recipe.prompt.style),
                sampling=Sampling(self.recipe.evaluation_max_completion_tokens, batch.temperature),
                stop=self.recipe.prompt.stop,
                share_prefix=self.recipe.shared_prefix == "on",
                end_of_turn=self.end_of_turn,
            )
        except LogitsNotFinite as error:
            raise Diverged(
                f"{error} from {batch.requests[0][0].id} on, so that its accuracy would be "
                f"meaningless; {_NOT_FINITE_ADVICE[self.label]}"
            ) from error
        rows = [row for row, _ in batch.requests]
        judged = self._judge(rows, completions, prompts, batch.num_shots)
        for (_, index), sample in zip(batch.requests, judged, strict=True):
            yield replace(sample, sample=index, greedy=not batch.temperature)

    def _judge(
        self,
        rows: Sequence[Row],
        completions: Sequence[Completion],
        prompts: Sequence[str],
        num_shots: int,
    ) -> Iterator[Sample]:
        cases = [
            Case(self._seen(completion), row.columns, prompt, len(completion.token_ids))
            for row, completion, prompt in zip(rows, completions, prompts, strict=True)
        ]
        verdicts = self.judge.batch(cases)
        for row, completion, verdict in zip(rows, completions, verdicts, strict=True):
            if verdict is None:
                self.unjudged.append(row.id)
            yield self._sample(row, completion, num_shots, is_correct=(verdict or 0) > 0)

    def _seen(self, completion: Completion) -> str:
        return self.recipe.prompt.assistant_prefix + completion.text

    def _sample(
        self, row: Row, completion: Completion, num_shots: int, *, is_correct: bool
    ) -> Sample:
        text, kind = self._seen(completion), self.kind
        answer = kind.read(text, self.recipe.prompt.place)
        is_well_formed = answer is not None and kind.is_well_formed(answer, row.columns)
        return Sample(
            model=self.label,
            shots=num_shots,
            id=row.id,
            question=row.question,
            answer=row.answer,
            completion=text,
            extracted=kind.show(answer) if answer is not None and is_well_formed else None,
            format=is_well_formed,
            correct=is_correct,
            flexible=(
                kind.is_correct_last(text, row.columns, self.recipe.prompt.stop)
                if isinstance(kind, Number)
                else is_correct
            ),
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
    exemplars = load_exemplars(data_dir)
    try_rewards(rewards, PromptLayout(recipe.prompt, exemplars), rows)
    own_batches = shard.of(batches(recipe, rows))
    if not own_batches:  # more shards than batches
        return []
    tokenizer = load_tokenizer(recipe.model, recipe.prompt.chat_template)
    template = chat_template(recipe, tokenizer)
    if adapter_dir is None:
        model = load_model(recipe.model, recipe.quantization)
        check_loaded(recipe, model, tokenizer)
    else:
        model = load_trained(recipe, adapter_dir)
    if torch.cuda.is_available() and not recipe.quantization:  # quantised weights are there already
        model.to("cuda")
    layout = PromptLayout(recipe.prompt, exemplars, template)
    ends = end_of_turn(tokenizer, template)
    evaluator = Evaluator(recipe, model.eval(), tokenizer, layout, label, ends)
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
