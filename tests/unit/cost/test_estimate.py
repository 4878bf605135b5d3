from __future__ import annotations

from dataclasses import replace

import pytest

from rlvr_components.cost.estimate import (
    ACHIEVED_FLOPS,
    START_S,
    TOKEN_FLOOR_S,
    Work,
    estimate,
)
from rlvr_components.cost.instance_prices import Gpu, Instance
from rlvr_components.cost.spending import billed_usd, run_time_limits
from rlvr_trainer.errors import ConfigError

WORK = Work(
    num_parameters=1e9,
    bytes_per_parameter=2,
    num_steps=100,
    completions_per_step=64,
    prompt_tokens_per_step=1000,
    completions_per_generation=64,
    generations_per_step=1,
    max_completion_tokens=200,
    num_evaluated=256,
    evaluation_batch_size=64,
    evaluation_prompt_tokens=256_000,
    evaluation_max_tokens=200,
)
ONE_GPU = Instance("ml.g.xlarge", Gpu(tflops=400, gb_per_s=1000), num_gpus=1, usd_per_hour=2.0)
FLOPS = 400e12 * ACHIEVED_FLOPS


def test_the_seconds_are_those_of_the_arithmetic() -> None:
    seconds = estimate(WORK, ONE_GPU, 1, 1).seconds
    token_s = TOKEN_FLOOR_S + 2e9 / 600e9  # the weights are read for every token
    trained = 1000 + 64 * 100  # prompts, and completions of half their limit
    # prompts once for generation; then forward, the recomputed forward, and backward through LoRA
    operations = 2 * 1000 + (2 + 2 + 2) * trained
    assert seconds["train"] == pytest.approx(
        START_S + 100 * (200 * token_s + operations * 1e9 / FLOPS)
    )
    assert seconds["evaluate-base"] == seconds["evaluate-trained"]
    assert seconds["evaluate-base"] == pytest.approx(
        START_S + 4 * 200 * token_s + 2 * 256_000 * 1e9 / FLOPS
    )


def train_s(work: Work, num_nodes: int = 1) -> float:
    return estimate(work, ONE_GPU, num_nodes, 1).seconds["train"] - START_S


@pytest.mark.parametrize(
    "change",
    [
        {"trains_all_weights": True},
        {"has_reference": True},
        {"num_steps": 200},
        {"prompt_tokens_per_step": 100_000},
        {"completions_per_generation": 6400},
        {"max_completion_tokens": 400},
        {"bytes_per_parameter": 4},
        {"num_parameters": 2e9},
    ],
)
def test_more_work_takes_longer(change: dict[str, float]) -> None:
    assert train_s(replace(WORK, **change)) > train_s(WORK)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"recomputes_activations": False}, {"generations_per_step": 0.5}]
)
def test_less_work_takes_less_time(change: dict[str, float]) -> None:
    assert train_s(replace(WORK, **change)) < train_s(WORK)  # type: ignore[arg-type]


def test_more_nodes_share_the_work_and_are_all_paid() -> None:
    one, two = estimate(WORK, ONE_GPU, 1, 1), estimate(WORK, ONE_GPU, 2, 1)
    assert two.hours < one.hours
    assert two.usd == pytest.approx(2 * 2.0 * two.hours)
    assert two.spot_usd < two.usd


def test_a_limit_of_the_price_is_divided_among_the_jobs() -> None:
    planned = estimate(WORK, ONE_GPU, 2, 1)
    limits = run_time_limits(10.0, planned)
    assert limits.keys() == planned.seconds.keys()
    assert all(limits[step] > planned.seconds[step] for step in limits)
    spent = sum(billed_usd(seconds, 2, 2.0) for seconds in limits.values())
    assert spent == pytest.approx(10.0, abs=0.01)
    assert spent <= 10.0


def test_a_run_that_is_estimated_above_the_limit_is_refused() -> None:
    planned = estimate(WORK, ONE_GPU, 1, 1)
    with pytest.raises(ConfigError, match=r"estimated at \$.* and --max-cost-usd is 0\.10"):
        run_time_limits(0.10, planned)


def test_what_was_billed_is_the_billable_time_of_all_instances() -> None:
    assert billed_usd(1800, 4, 37.66) == pytest.approx(75.32)
