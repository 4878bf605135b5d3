"""Estimate the time and the price of a run's steps from its tokens. Pure.

It counts arithmetic and memory traffic, and assumes which share of a GPU's data sheet is reached
(`ASSUMPTIONS`). None of the shares was measured on a GPU, so an estimate may be wrong by a factor
of two or three: good for choosing an instance type and for a limit, not for a budget.

Per token and parameter, a forward pass takes 2 operations, a backward pass 2 for the activations
and 2 for the weights that are trained (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlvr_components.cost.instance_prices import Instance

ACHIEVED_FLOPS = 0.25
ACHIEVED_BANDWIDTH = 0.6
TOKEN_FLOOR_S = 0.025
MEAN_LENGTH = 0.5
START_S = 300
SPOT_SHARE = 0.4

ASSUMPTIONS = (
    f"{ACHIEVED_FLOPS:.0%} of a GPU's bfloat16 rate and {ACHIEVED_BANDWIDTH:.0%} of its memory's "
    "are reached",
    f"the next token of a batch takes {TOKEN_FLOOR_S * 1000:.0f} ms and the arithmetic",
    f"completions are {MEAN_LENGTH:.0%} of their limit long, the longest of a batch all of it",
    f"a job takes {START_S // 60} minutes to start",
    "traffic between nodes, storage and the idle time of a warm pool are not counted",
    f"spot costs {SPOT_SHARE:.0%} of on demand; its price varies",
)
"""The assumptions of an estimate, for people."""


@dataclass(frozen=True)
class Work:
    """The tokens of a run."""

    num_parameters: float
    bytes_per_parameter: float
    """Bytes that are read for a parameter to generate a token."""
    num_steps: int
    completions_per_step: int
    """Completions that a step trains on."""
    prompt_tokens_per_step: int
    """Tokens before them; what is computed once counts once."""
    completions_per_generation: int
    """Completions that are generated together."""
    generations_per_step: float
    max_completion_tokens: int
    num_evaluated: int
    """Completions of one evaluation."""
    evaluation_batch_size: int
    evaluation_prompt_tokens: int
    """Prompt tokens of one evaluation."""
    evaluation_max_tokens: int
    trains_all_weights: bool = False
    recomputes_activations: bool = True
    has_reference: bool = False
    """True if a second model's log-probabilities are computed (grpo.beta above 0)."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of each step's job, and the price of all of them."""

    instance: Instance
    num_nodes: int
    seconds: Mapping[str, float]
    """Step → seconds of its job."""

    @property
    def hours(self) -> float:
        """Hours of all jobs, one after the other."""
        return sum(self.seconds.values()) / 3600

    @property
    def usd_per_hour(self) -> float:
        """Price of all nodes, on demand."""
        return self.instance.usd_per_hour * self.num_nodes

    @property
    def usd(self) -> float:
        """Price on demand."""
        return self.hours * self.usd_per_hour

    @property
    def spot_usd(self) -> float:
        """Price on spot instances, without the time that interruptions cost."""
        return self.usd * SPOT_SHARE


def estimate(work: Work, instance: Instance, num_nodes: int, gpus_per_node: int) -> Estimate:
    """Estimate a run on `num_nodes` instances, each with a process for each of its GPUs in use."""
    num_gpus = num_nodes * max(gpus_per_node, 1)
    evaluation = START_S + _evaluation_s(work, instance, num_gpus)
    return Estimate(
        instance,
        num_nodes,
        {
            "evaluate-base": evaluation,
            "train": START_S + work.num_steps * _step_s(work, instance, num_gpus),
            "evaluate-trained": evaluation,
        },
    )


def _step_s(work: Work, instance: Instance, num_gpus: int) -> float:
    rows = math.ceil(work.completions_per_generation / num_gpus)
    generation = work.max_completion_tokens * _token_s(work, instance, rows)
    completed = work.completions_per_step * work.max_completion_tokens * MEAN_LENGTH
    tokens = work.prompt_tokens_per_step + completed
    operations = 2 * work.prompt_tokens_per_step + _training_operations(work) * tokens
    return (
        work.generations_per_step * generation
        + operations * work.num_parameters / num_gpus / _flops(instance)
    )


def _training_operations(work: Work) -> int:
    """Return the operations for each token and parameter of a training pass."""
    forward, backward = 2, 4 if work.trains_all_weights else 2
    passes = 1 + work.recomputes_activations + work.has_reference
    return forward * passes + backward


def _evaluation_s(work: Work, instance: Instance, num_gpus: int) -> float:
    share = math.ceil(work.num_evaluated / num_gpus)
    num_batches = math.ceil(share / work.evaluation_batch_size)
    rows = min(share, work.evaluation_batch_size)
    generation = num_batches * work.evaluation_max_tokens * _token_s(work, instance, rows)
    operations = 2 * work.evaluation_prompt_tokens * work.num_parameters / num_gpus
    return generation + operations / _flops(instance)


def _token_s(work: Work, instance: Instance, rows: int) -> float:
    """Return the seconds for one token of each of a GPU's rows: weights read, or multiplied."""
    weights = work.num_parameters * work.bytes_per_parameter
    reading = weights / (instance.gpu.gb_per_s * 1e9 * ACHIEVED_BANDWIDTH)
    return TOKEN_FLOOR_S + max(reading, 2 * work.num_parameters * rows / _flops(instance))


def _flops(instance: Instance) -> float:
    return instance.gpu.tflops * 1e12 * ACHIEVED_FLOPS
