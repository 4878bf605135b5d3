"""Evaluation of a model on test rows: greedy, the same prompts and the same stop for every model.

Only the completion is scored. Each sample is kept, so that before and after can be compared row by
row and anyone can count again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlvr_trainer.data import load_exemplars, load_rows
from rlvr_trainer.evaluation import write_samples
from rlvr_trainer.events import emit
from rlvr_trainer.generation import Completion, Sampling, complete
from rlvr_trainer.models import load_model, load_tokenizer, load_trained
from rlvr_trainer.prompt import PromptLayout
from rlvr_trainer.recipe import Recipe
from rlvr_trainer.rewards import (
    correctness_reward,
    extract_answer,
    format_reward,
    is_correct_number,
    last_number,
)
from rlvr_trainer.tasks import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROGRESS_EVERY = 8


@dataclass(frozen=True)
class Sample:
    """One completion of one test row, and what the verifiers said."""

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
    """By the marker, as while training."""
    flexible: bool
    """By the last number in the completion."""
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

    def greedy(self, rows: Sequence[Row], num_shots: int) -> Iterator[Sample]:
        """One greedy completion for each row, in order."""
        sampling = Sampling(self.recipe.evaluation_max_completion_tokens)
        return self._samples(rows, num_shots, sampling, num_samples=1)

    def sampled(self, rows: Sequence[Row], num_shots: int) -> Iterator[Sample]:
        """`evaluation.pass_at_k.num_samples` sampled completions for each row."""
        config = self.recipe.evaluation.pass_at_k
        if config is None:
            return iter(())
        sampling = Sampling(self.recipe.evaluation_max_completion_tokens, config.temperature)
        return self._samples(rows, num_shots, sampling, num_samples=config.num_samples)

    def _samples(
        self, rows: Sequence[Row], num_shots: int, sampling: Sampling, num_samples: int
    ) -> Iterator[Sample]:
        wanted = [(row, index) for row in rows for index in range(num_samples)]
        size = self.recipe.evaluation.batch_size
        for start in range(0, len(wanted), size):
            batch = wanted[start : start + size]
            prompts = [self.layout.prompt(row, num_shots) for row, _ in batch]
            completions = complete(
                self.model,
                self.tokenizer,
                self.tokenizer(text=prompts)["input_ids"],
                sampling=sampling,
                stop=self.recipe.prompt.stop,
                share_prefix=self.recipe.shared_prefix == "on",
            )
            for (row, index), completion in zip(batch, completions, strict=True):
                yield replace(
                    self._judge(row, completion, num_shots),
                    sample=index,
                    greedy=not sampling.temperature,
                )

    def _judge(self, row: Row, completion: Completion, num_shots: int) -> Sample:
        prompt, text = self.recipe.prompt, completion.text
        marker, stop = prompt.answer_marker, prompt.stop
        return Sample(
            model=self.label,
            shots=num_shots,
            id=row.id,
            question=row.question,
            answer=row.answer,
            completion=text,
            extracted=extract_answer(text, marker=marker, stop=stop),
            format=bool(format_reward(text, marker=marker, stop=stop)),
            correct=bool(correctness_reward(text, row.answer, marker=marker, stop=stop)),
            flexible=is_correct_number(last_number(text, stop=stop), row.answer),
            num_tokens=len(completion.token_ids),
        )


def evaluate(
    recipe: Recipe,
    data_dir: Path,
    output_dir: Path,
    *,
    label: str,
    adapter_dir: Path | None = None,
) -> dict[str, float]:
    """Evaluate the base model, or it with an adapter, on the test rows of `data_dir`.

    Writes `samples.jsonl` to `output_dir`, whole or not at all, and returns accuracy, format and
    flexible at the shots that were trained (or the first evaluated ones).
    """
    if adapter_dir is None:
        model = load_model(recipe.model, recipe.quantization)
    else:
        model = load_trained(recipe, adapter_dir)
    if torch.cuda.is_available() and not recipe.quantization:  # a quantised one is there already
        model.to("cuda")
    layout = PromptLayout(recipe.prompt, load_exemplars(data_dir))
    evaluator = Evaluator(recipe, model.eval(), load_tokenizer(recipe.model), layout, label)
    rows = load_rows(data_dir, "test")[: recipe.evaluation.num_rows]
    torch.manual_seed(recipe.seed)
    samples = [asdict(sample) for sample in _with_progress(evaluator, rows)]
    output_dir.mkdir(parents=True, exist_ok=True)
    write_samples(output_dir / "samples.jsonl", samples)
    return headline(samples, recipe)


def headline(samples: Sequence[Mapping[str, Any]], recipe: Recipe) -> dict[str, float]:
    """The shares that stand for the whole evaluation: at the trained shots where evaluated."""
    evaluated = recipe.evaluated_shots
    shots = recipe.prompt.num_shots if recipe.prompt.num_shots in evaluated else evaluated[0]
    chosen = [sample for sample in samples if sample["greedy"] and sample["shots"] == shots]
    return {
        name: sum(sample[key] for sample in chosen) / len(chosen)
        for name, key in (("accuracy", "correct"), ("format", "format"), ("flexible", "flexible"))
    } | {"num_samples": float(len(chosen))}


def _with_progress(evaluator: Evaluator, rows: Sequence[Row]) -> Iterator[Sample]:
    phase = "evaluate-base" if evaluator.label == "before" else "evaluate-trained"
    num_sampled = len(rows) * (
        evaluator.recipe.evaluation.pass_at_k.num_samples
        if evaluator.recipe.evaluation.pass_at_k
        else 0
    )
    shots = evaluator.recipe.evaluated_shots
    total = len(shots) * (len(rows) + num_sampled)
    done = judged = correct = formatted = 0
    for num_shots in shots:
        for sample in chain(evaluator.greedy(rows, num_shots), evaluator.sampled(rows, num_shots)):
            done += 1
            if sample.greedy:  # sampled ones count for pass@k alone
                judged += 1
                correct += sample.correct
                formatted += sample.format
            if done % PROGRESS_EVERY == 0 or done == total:
                emit(
                    "evaluation",
                    phase=phase,
                    done=done,
                    total=total,
                    accuracy=correct / judged,
                    format=formatted / judged,
                )
            yield sample
