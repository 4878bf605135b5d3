"""What a run will do, before it does it: rows, steps, tokens, and the job that is launched."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from rlvr_components.jobs import JobSpec, training_job
from rlvr_components.jobs.local import LocalBackend, LocalProcess
from rlvr_pipelines.progress import TITLES
from rlvr_trainer.recipe import Recipe

CHARACTERS_PER_TOKEN = 3.6
"""Of English text with numbers; a plan does not load a tokenizer."""
REMOTE_SCHEMES = ("hub://", "s3://")


@dataclass(frozen=True)
class Sizes:
    """How much there is to do."""

    num_rows: dict[str, int]
    """By split, and quarantined."""
    num_steps: int
    completions_per_step: int
    questions_per_step: int
    header_tokens: int
    question_tokens: int
    tokens_per_step: int
    """At the most: every completion at its limit; what is shared counts once where it is computed
    once."""
    num_evaluated: int
    """Completions of one evaluation."""


@dataclass(frozen=True)
class Plan:
    """A recipe, what it amounts to, and the job that trains it."""

    recipe: Recipe
    run_dir: Path
    sizes: Sizes | None
    """None when the rows are elsewhere, and counted once they have been read."""
    job: JobSpec
    process: LocalProcess
    """The job as the local backend renders it: what is started."""

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        sizes = None
        if self.sizes:
            sizes = {**vars(self.sizes), "estimated": ["header_tokens", "question_tokens",
                                                       "tokens_per_step"]}  # fmt: skip
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_hash": self.recipe.hash,
            "run_dir": str(self.run_dir),
            "steps": list(TITLES.values()),
            "sizes": sizes,
            "job": {"name": self.job.name, "argv": self.process.argv, "env": self.process.env},
        }


def plan(recipe: Recipe, run_dir: Path) -> Plan:
    """Compose the plan; reads the rows where they are on this machine.

    Raises what reading them raises: ConfigError, DataError.
    """
    job = training_job(recipe, run_dir.resolve(), os.environ)
    remote = any(
        source.startswith(REMOTE_SCHEMES) for source in (recipe.data.train, recipe.data.test)
    )
    sizes = None if remote else measure(recipe)
    return Plan(recipe, run_dir, sizes, job, LocalBackend().render(job))


def measure(recipe: Recipe) -> Sizes:
    """Prepare the rows aside and count; lengths in tokens are estimates from the characters."""
    from rlvr_trainer.data import load_exemplars, load_rows, prepare
    from rlvr_trainer.prompt import PromptLayout

    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder, "data")
        manifest = prepare(recipe, data_dir, count_tokens=lambda text: 0)
        layout = PromptLayout(recipe.prompt, load_exemplars(data_dir))
        rows = load_rows(data_dir, "train")
    counts = manifest["counts"]
    header = _tokens(len(layout.header(recipe.prompt.num_shots)))
    question = _tokens(mean(len(layout.question(row)) for row in rows))
    completions = recipe.device_generation_batch_size
    questions = completions // recipe.sampling.num_generations
    tokens = completions * recipe.sampling.max_completion_tokens
    if recipe.shared_prefix == "on":
        tokens += header + questions * question
    else:
        tokens += completions * (header + question)
    evaluated = min(recipe.evaluation.num_rows or counts["test"], counts["test"])
    samples = 1 + (recipe.evaluation.pass_at_k.num_samples if recipe.evaluation.pass_at_k else 0)
    return Sizes(
        num_rows=counts,
        num_steps=recipe.training.max_steps or _steps(recipe, counts["train"], questions),
        completions_per_step=completions,
        questions_per_step=questions,
        header_tokens=header,
        question_tokens=question,
        tokens_per_step=tokens,
        num_evaluated=evaluated * len(recipe.evaluated_shots) * samples,
    )


def _steps(recipe: Recipe, num_rows: int, questions_per_step: int) -> int:
    """Whole batches only, as TRL's sampler draws them."""
    return max(1, math.ceil(recipe.training.num_epochs * (num_rows // questions_per_step)))


def _tokens(characters: float) -> int:
    return round(characters / CHARACTERS_PER_TOKEN)
