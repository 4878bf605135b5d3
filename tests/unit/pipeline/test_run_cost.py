from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvr_components.platform.settings import Platform
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_pipelines.pipeline.run_cost import (
    CostUnknown,
    describe_cost,
    estimate_jobs,
    estimate_run,
    price_of,
    time_limits,
    work_of,
)
from rlvr_pipelines.pipeline.run_plan import Sizes, measure
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe

LABEL = "node.kubernetes.io/instance-type"
PLATFORM = Platform(image="x", num_nodes=2, gpus_per_node=4, node_selector={LABEL: "g6.12xlarge"})


def tiny(*overrides: str) -> Recipe:
    return load_recipe(Path(__file__).parents[2] / "tiny.yaml", overrides)


@pytest.fixture(scope="module")
def sizes() -> Sizes:
    return measure(tiny("data.num_train_rows=200"), 8)


def test_the_instance_type_is_the_one_that_the_platform_selects(sizes: Sizes) -> None:
    planned = estimate_jobs(tiny(), sizes, PLATFORM)
    assert planned.instance.instance_type == "g6.12xlarge"
    assert planned.usd_per_hour == pytest.approx(2 * 4.6016)
    chosen = estimate_jobs(tiny(), sizes, PLATFORM, "g5.48xlarge")
    assert chosen.instance.instance_type == "g5.48xlarge"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"instance_type": ""}, "no instance type is named; give --instance-type"),
        ({"instance_type": "g6.12xlrge"}, r"did you mean 'g6\.12xlarge'"),
        ({"gpus_per_node": 8}, "g6.12xlarge has 4 GPUs, and the job takes 8 of a node"),
        ({"gpus_per_node": 0}, "without a GPU"),
        ({"sizes": None}, "the rows are not on this machine"),
    ],
)
def test_what_is_missing_for_an_estimate_is_named(
    sizes: Sizes, change: dict[str, Any], complaint: str
) -> None:
    arguments = {"sizes": sizes, "instance_type": "g6.12xlarge", "gpus_per_node": 4, **change}
    with pytest.raises(CostUnknown, match=complaint):
        estimate_run(tiny(), num_nodes=2, **arguments)


def test_a_model_of_unknown_size_is_named(sizes: Sizes) -> None:
    recipe = tiny("model.name=org/model", f"model.revision={'0' * 40}")
    with pytest.raises(CostUnknown, match="the size of org/model is not known"):
        estimate_run(recipe, sizes, instance_type="g5.xlarge", num_nodes=1, gpus_per_node=1)


def test_the_plan_tells_what_the_estimate_rests_on(sizes: Sizes) -> None:
    lines = describe_cost(estimate_jobs(tiny(), sizes, PLATFORM))
    assert lines[0].startswith("time    about 1")
    assert "2 × g6.12xlarge at $4.60 an hour (list prices of us-east-1, 2026-" in lines[1]
    assert sum("assumed: " in line for line in lines) == len(lines) - 2


def test_a_generation_that_is_trained_on_several_times_counts_once(sizes: Sizes) -> None:
    once, four_times = (
        work_of(tiny(*overrides), sizes, 1e9, world_size=8)
        for overrides in ((), ("grpo.num_iterations=4",))
    )
    assert four_times.generations_per_step == once.generations_per_step / 4


def test_prompts_count_as_often_as_they_are_computed() -> None:
    shared, plain = (
        work_of(recipe, measure(recipe, 1), 1e9, world_size=1)
        for recipe in (tiny(), tiny("shared_prefix=off"))
    )
    assert plain.prompt_tokens_per_step > 4 * shared.prompt_tokens_per_step
    assert plain.evaluation_prompt_tokens > shared.evaluation_prompt_tokens


def test_a_limit_of_the_price_becomes_the_training_s_time_limit() -> None:
    recipe = tiny("data.num_train_rows=200")
    limits = [time_limits(recipe, PLATFORM, "", usd)["run_timeout_s"] for usd in (10, 20)]
    assert limits[1] == pytest.approx(2 * limits[0], abs=2)
    unlimited = time_limits(recipe, PLATFORM, "", 1e6)
    assert unlimited == {"run_timeout_s": PLATFORM.run_timeout_s}
    with pytest.raises(ConfigError, match="the run is estimated at"):
        time_limits(recipe, PLATFORM, "", 0.01)


SAGEMAKER = SageMaker(
    role_arn="arn:aws:iam::123456789012:role/rlvr",
    image="123456789012.dkr.ecr.us-east-1.amazonaws.com/rlvr@sha256:0",
    instance_preferences=("ml.g6.12xlarge", "ml.g6e.12xlarge"),
    instance_count=2,
)


def test_on_sagemaker_the_dearest_of_the_types_is_priced_by_sagemaker_s_list(sizes: Sizes) -> None:
    planned = estimate_jobs(tiny(), sizes, SAGEMAKER)
    assert planned.instance.instance_type == "ml.g6e.12xlarge"
    assert planned.usd_per_hour == pytest.approx(2 * 13.12)
    other = SAGEMAKER.model_copy(
        update={"instance_preferences": ("ml.g6.12xlarge", "ml.p3.2xlarge")}
    )
    assert price_of(tiny(), sizes, other, "", None).facts["unknown"].startswith("ml.p3.2xlarge is")


def test_on_sagemaker_all_jobs_together_cost_at_most_the_limit(sizes: Sizes) -> None:
    recipe = tiny("data.num_train_rows=200")
    limits = time_limits(recipe, SAGEMAKER, "", 60.0)["step_limits_s"]
    limited = SAGEMAKER.model_copy(update={"step_limits_s": limits})
    runtimes = [limited.runtime_s(step) for step in ("evaluate-base", "train", "evaluate-trained")]
    assert 59.9 < sum(runtimes) / 3600 * 2 * 13.12 <= 60
    assert all(limited.runtime_s(step) <= limited.max_runtime_s for step in limits)
    lines = price_of(recipe, sizes, SAGEMAKER, "", 60.0).lines
    assert lines[-1].startswith("limit   $60.00: stopped are evaluate-base after ")
