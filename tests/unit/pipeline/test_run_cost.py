from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvr_components.platform.settings import Platform
from rlvr_pipelines.pipeline.run_cost import (
    CostUnknown,
    describe_cost,
    estimate_in_cluster,
    estimate_run,
    training_limit_s,
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
    planned = estimate_in_cluster(tiny(), sizes, PLATFORM)
    assert planned.instance.instance_type == "g6.12xlarge"
    assert planned.usd_per_hour == pytest.approx(2 * 4.6016)
    chosen = estimate_in_cluster(tiny(), sizes, PLATFORM, "g5.48xlarge")
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
    lines = describe_cost(estimate_in_cluster(tiny(), sizes, PLATFORM))
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
    limits = [
        training_limit_s(recipe, PLATFORM, instance_type="", max_cost_usd=usd) for usd in (10, 20)
    ]
    assert limits[1] == pytest.approx(2 * limits[0], abs=2)
    unlimited = training_limit_s(recipe, PLATFORM, instance_type="", max_cost_usd=1e6)
    assert unlimited == PLATFORM.run_timeout_s
    with pytest.raises(ConfigError, match="the run is estimated at"):
        training_limit_s(recipe, PLATFORM, instance_type="", max_cost_usd=0.01)
