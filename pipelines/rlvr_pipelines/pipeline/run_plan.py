"""The plan of a run: its rows, steps and tokens, and the job that it launches."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from rlvr_components.jobs import JobSpec, training_job
from rlvr_components.jobs.local_process import LocalBackend, LocalProcess
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.grpo.trl_refusals import check_trl_options
from rlvr_trainer.launch.operator_environment import num_gpus
from rlvr_trainer.models.chat_prompts import local_chat_template
from rlvr_trainer.models.fit import check_local_model
from rlvr_trainer.phases import TITLES
from rlvr_trainer.recipe.batch import batch_of
from rlvr_trainer.recipe.schema import NOTHING_LEARNT_IN_ONE_STEP, Recipe
from rlvr_trainer.rewards import build_rewards

if TYPE_CHECKING:
    from rlvr_pipelines.cluster.job_plan import ClusterJob

CHARACTERS_PER_TOKEN = 3.6
"""The average of English text with numbers; a plan does not load a tokenizer."""
REMOTE_SCHEMES = ("hub://", "s3://")


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run."""

    num_rows: dict[str, int]
    """Split (or `quarantined`) → number of rows."""
    quarantined: dict[str, int]
    """Reason → number of rows that are set aside."""
    oddities: dict[str, dict[str, int]]
    """Split → oddities that were read over in its files."""
    num_steps: int
    completions_per_step: int
    questions_per_step: int
    header_tokens: int
    question_tokens: int
    tokens_per_step: int
    """The maximum, with every completion at its limit; a shared prefix counts once if it is
    computed once."""
    num_evaluated: int
    """The number of completions of one evaluation."""
    reward_warnings: list[str]
    """Rewards that a completion without an answer would earn."""
    prompt: str
    """The prompt of the first training row; `[role] content` of a chat whose template is not on
    this machine."""


@dataclass(frozen=True)
class Plan:
    """A recipe, its sizes, and the job that trains it."""

    recipe: Recipe
    run_dir: Path
    world_size: int
    """The number of processes that train together."""
    sizes: Sizes | None
    """None if the rows are not on this machine: they are counted once they have been read."""
    job: JobSpec
    rendered: LocalProcess | dict[str, Any]
    """The job as its backend renders it: the process to start, or the object to send."""

    def facts(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        sizes = None
        if self.sizes:
            sizes = {**vars(self.sizes), "estimated": ["header_tokens", "question_tokens",
                                                       "tokens_per_step"]}  # fmt: skip
        job: dict[str, Any] = {"name": self.job.name}
        if isinstance(self.rendered, LocalProcess):
            job |= {"argv": self.rendered.argv, "env": self.rendered.env}
        else:
            job |= {**vars(self.job.resources), "manifest": self.rendered}
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_hash": self.recipe.hash,
            "run_dir": str(self.run_dir),
            "steps": list(TITLES.values()),
            "world_size": self.world_size,
            "sizes": sizes,
            "job": job,
        }


def plan_local(recipe: Recipe, run_dir: Path) -> Plan:
    """Plan a run on this machine; read the rows if they are here.

    Raises ConfigError, also for rewards that cannot be loaded or fail on gold completions, and
    DataError.
    """
    build_rewards(recipe)
    gpus = num_gpus()
    job = training_job(recipe, run_dir.resolve(), os.environ, num_gpus=gpus)
    world_size = max(gpus, 1)
    rendered = LocalBackend().render(job)
    check_trl_options(recipe, world_size, is_here=True)
    return Plan(recipe, run_dir, world_size, sizes_of(recipe, world_size), job, rendered)


def plan_in_cluster(recipe: Recipe, run_dir: Path, job: ClusterJob) -> Plan:
    """Plan a run whose model steps are jobs. Raises ConfigError, DataError."""
    check_trl_options(recipe, job.world_size, is_here=False)
    sizes = sizes_of(recipe, job.world_size)
    return Plan(recipe, run_dir, job.world_size, sizes, job.spec, job.manifest)


def sizes_of(recipe: Recipe, world_size: int) -> Sizes | None:
    """Return the sizes of a run, or None if the rows are not on this machine.

    Raises ConfigError, DataError.
    """
    check_local_model(recipe)
    local_chat_template(recipe)  # to fail now rather than in the run
    batch_of(recipe, world_size)  # also checked if the rows are not here
    remote = any(
        source.startswith(REMOTE_SCHEMES) for source in (recipe.data.train, recipe.data.test)
    )
    return None if remote else measure(recipe, world_size)


def measure(recipe: Recipe, world_size: int = 1) -> Sizes:
    """Prepare the rows in a temporary folder and count; token lengths are estimates.

    Raises ConfigError if there are fewer rows than one step takes, nothing would be learnt or the
    judge is fooled by a completion without an answer, DataError.
    """
    from rlvr_trainer.data import load_exemplars, load_rows, prepare
    from rlvr_trainer.reward_check import check_prepared
    from rlvr_trainer.tasks.chat_template import Outline
    from rlvr_trainer.tasks.prompt import PromptLayout

    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder, "data")
        template = local_chat_template(recipe) or Outline()
        manifest = prepare(recipe, data_dir, count_tokens=lambda text: 0, template=template)
        layout = PromptLayout(recipe.prompt, load_exemplars(data_dir), template)
        rows = load_rows(data_dir, "train")
        warnings = check_prepared(recipe, data_dir)
    counts = manifest["counts"]
    shared = layout.header()
    header = _tokens(len(shared))
    question = _tokens(mean(len(layout.prompt(row).removeprefix(shared)) for row in rows))
    completions = batch_of(recipe, world_size)
    questions = completions // recipe.sampling.num_generations
    if questions > counts["train"] and not recipe.data.repeat_to_batch:
        raise ConfigError(
            f"one step takes {questions} questions ({completions} completions of {world_size} "
            f"processes), and there are {counts['train']} training rows; lower "
            "training.per_device_batch_size, --nodes or --gpus"
        )
    num_steps = recipe.training.max_steps or _steps(
        recipe, counts["train"] // questions, completions // world_size
    )
    if num_steps == 1 and recipe.training.begins_at_zero:
        raise ConfigError(NOTHING_LEARNT_IN_ONE_STEP)
    tokens = completions * recipe.sampling.max_completion_tokens
    if recipe.shared_prefix == "on":
        tokens += world_size * header + questions * question
    else:
        tokens += completions * (header + question)
    evaluated = min(recipe.evaluation.num_rows or counts["test"], counts["test"])
    samples = 1 + (recipe.evaluation.pass_at_k.num_samples if recipe.evaluation.pass_at_k else 0)
    return Sizes(
        num_rows=counts,
        quarantined=manifest["quarantined"],
        oddities=manifest["oddities"],
        num_steps=num_steps,
        completions_per_step=completions,
        questions_per_step=questions,
        header_tokens=header,
        question_tokens=question,
        tokens_per_step=tokens,
        num_evaluated=evaluated * len(recipe.evaluated_shots) * samples,
        reward_warnings=warnings,
        prompt=layout.prompt(rows[0]),
    )


def _steps(recipe: Recipe, num_batches: int, batch: int) -> int:
    """Return the number of steps of whole generation batches, as TRL's sampler draws them."""
    training = recipe.training
    micro_steps: int = batch // training.per_device_batch_size
    micro_steps *= recipe.grpo.get("num_iterations", 1)
    epoch = num_batches * micro_steps / training.gradient_accumulation_steps
    return max(1, math.ceil(training.num_epochs * epoch))


def _tokens(characters: float) -> int:
    return round(characters / CHARACTERS_PER_TOKEN)
