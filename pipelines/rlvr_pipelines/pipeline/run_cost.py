"""Estimate the time and the price of a planned run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_components.cost.estimate import ASSUMPTIONS, Estimate, Work, estimate
from rlvr_components.cost.instance_prices import Service, find_instance, price_date, priced_types
from rlvr_components.cost.model_size import num_parameters
from rlvr_components.cost.spending import run_time_limits
from rlvr_components.platform.settings import Platform
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_pipelines.pipeline.run_plan import Sizes, sizes_of
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.recipe.suggest import did_you_mean

INSTANCE_TYPE_LABEL = "node.kubernetes.io/instance-type"
BYTES_PER_PARAMETER = {"fp32": 4}
"""Others take 2; a 4-bit weight too, since it is unpacked before every use."""


class CostUnknown(ConfigError):
    """The price of a run cannot be estimated; the message says what is missing."""


@dataclass(frozen=True)
class Price:
    """The time and price of a run as a plan shows them."""

    facts: Mapping[str, Any]
    lines: Sequence[str]


def price_of(
    recipe: Recipe,
    sizes: Sizes | None,
    platform: Platform | SageMaker,
    instance_type: str,
    max_cost_usd: float | None,
) -> Price:
    """Return the price of a run with these settings, or what is missing for an estimate."""
    try:
        planned = estimate_jobs(recipe, sizes, platform, instance_type)
    except CostUnknown as reason:
        return Price({"unknown": str(reason)}, [f"cost    unknown: {reason}"])
    facts, lines = cost_facts(planned), describe_cost(planned)
    if max_cost_usd is not None:
        limits = _limits(planned, platform, max_cost_usd)
        facts |= {"max_cost_usd": max_cost_usd, **limits}
        stops = limits.get("step_limits_s") or {"train": limits["run_timeout_s"]}
        after = ", ".join(f"{step} after {duration(s)}" for step, s in stops.items())
        lines.append(f"limit   ${max_cost_usd:,.2f}: stopped are {after}")
    return Price(facts, lines)


def time_limits(
    recipe: Recipe, platform: Platform | SageMaker, instance_type: str, max_cost_usd: float
) -> dict[str, Any]:
    """Return the settings that stop a run's jobs at the limit of its price.

    On SageMaker each job has its limit, so that all of them together cost at most that; in a
    cluster, whose jobs share one limit, it is that of the training. Raises ConfigError for a run
    that is estimated to exceed the limit, or cannot be estimated.
    """
    sizes = sizes_of(recipe, platform.world_size)
    planned = estimate_jobs(recipe, sizes, platform, instance_type)
    return _limits(planned, platform, max_cost_usd)


def _limits(
    planned: Estimate, platform: Platform | SageMaker, max_cost_usd: float
) -> dict[str, Any]:
    limits = run_time_limits(max_cost_usd, planned)
    if isinstance(platform, SageMaker):
        longest_s = platform.max_runtime_s
        return {"step_limits_s": {step: min(s, longest_s) for step, s in limits.items()}}
    return {"run_timeout_s": min(limits["train"], platform.run_timeout_s)}


def estimate_jobs(
    recipe: Recipe, sizes: Sizes | None, platform: Platform | SageMaker, instance_type: str = ""
) -> Estimate:
    """Estimate a run with these settings, on nodes of this type or the one that they name.

    Of several types that SageMaker may choose from, the dearest counts. Raises CostUnknown.
    """
    nodes, gpus = platform.num_nodes, platform.gpus_per_node
    if not isinstance(platform, SageMaker):
        selected = instance_type or platform.node_selector.get(INSTANCE_TYPE_LABEL, "")
        return estimate_run(recipe, sizes, selected, nodes, gpus)
    estimates = [
        estimate_run(recipe, sizes, name, nodes, gpus, service="sagemaker")
        for name in platform.types
    ]
    return max(estimates, key=lambda estimate: estimate.usd)


def estimate_run(
    recipe: Recipe,
    sizes: Sizes | None,
    instance_type: str,
    num_nodes: int,
    gpus_per_node: int,
    *,
    service: Service = "ec2",
) -> Estimate:
    """Estimate a run on instances of this type. Raises CostUnknown."""
    if not instance_type:
        raise CostUnknown(
            "no instance type is named; give --instance-type, or select nodes by "
            f"{INSTANCE_TYPE_LABEL}"
        )
    instance = find_instance(instance_type)
    if instance is None:
        known = priced_types(service)
        raise CostUnknown(
            f"{instance_type} is not in the list prices of {price_date()}"
            f"{did_you_mean(instance_type, known)}; they have the families "
            f"{', '.join(dict.fromkeys(name.rpartition('.')[0] for name in known))}"
        )
    if gpus_per_node > instance.num_gpus:
        raise CostUnknown(
            f"{instance_type} has {instance.num_gpus} GPUs, and the job takes {gpus_per_node} of a "
            "node; choose another type, or lower --gpus"
        )
    if not gpus_per_node:
        raise CostUnknown(f"without a GPU the rates of {instance_type} are not known; give --gpus")
    if sizes is None:
        raise CostUnknown("the rows are not on this machine, so the steps cannot be counted")
    parameters = num_parameters(recipe.model)
    if parameters is None:
        raise CostUnknown(
            f"the size of {recipe.model.name} is not known: it is not on this machine, and its "
            "name does not state it (as Qwen2.5-0.5B does)"
        )
    work = work_of(recipe, sizes, parameters, world_size=num_nodes * gpus_per_node)
    return estimate(work, instance, num_nodes, gpus_per_node)


def work_of(recipe: Recipe, sizes: Sizes, parameters: float, *, world_size: int) -> Work:
    """Return the tokens of a recipe's run. Pure."""
    generated = sizes.completions_per_step
    trained = recipe.device_generation_batch_size * world_size
    max_tokens = recipe.sampling.max_completion_tokens
    prompt_tokens = sizes.tokens_per_step - generated * max_tokens
    shared = recipe.shared_prefix == "on"
    evaluation_prompt = sizes.question_tokens + (0 if shared else sizes.header_tokens)
    return Work(
        num_parameters=parameters,
        bytes_per_parameter=BYTES_PER_PARAMETER.get(recipe.model.dtype, 2),
        num_steps=sizes.num_steps,
        completions_per_step=trained,
        prompt_tokens_per_step=round(prompt_tokens * trained / generated),
        completions_per_generation=generated,
        generations_per_step=trained / generated / recipe.grpo.get("num_iterations", 1),
        max_completion_tokens=max_tokens,
        num_evaluated=sizes.num_evaluated,
        evaluation_batch_size=recipe.evaluation.batch_size,
        evaluation_prompt_tokens=sizes.num_evaluated * evaluation_prompt,
        evaluation_max_tokens=recipe.evaluation_max_completion_tokens,
        trains_all_weights=recipe.lora is None,
        recomputes_activations=recipe.training.gradient_checkpointing,
        has_reference=bool(recipe.grpo.get("beta")),
    )


def cost_facts(planned: Estimate) -> dict[str, Any]:
    """Return an estimate as plain data."""
    return {
        "instance_type": planned.instance.instance_type,
        "num_nodes": planned.num_nodes,
        "usd_per_hour": round(planned.usd_per_hour, 4),
        "price_date": price_date(),
        "hours": round(planned.hours, 2),
        "hours_by_step": {step: round(s / 3600, 2) for step, s in planned.seconds.items()},
        "usd": round(planned.usd, 2),
        "usd_spot": round(planned.spot_usd, 2),
        "assumptions": list(ASSUMPTIONS),
    }


def describe_cost(planned: Estimate) -> list[str]:
    """Return the lines of a plan that tell its time and price, and what they rest on."""
    steps = ", ".join(f"{step} {duration(s)}" for step, s in planned.seconds.items())
    return [
        f"time    about {duration(planned.hours * 3600)} ({steps})",
        f"cost    about ${planned.usd:,.2f} on demand, ${planned.spot_usd:,.2f} on spot: "
        f"{planned.num_nodes} × {planned.instance.instance_type} at "
        f"${planned.instance.usd_per_hour:.2f} an hour (list prices of us-east-1, {price_date()})",
        *(f"        assumed: {assumption}" for assumption in ASSUMPTIONS),
    ]


def duration(seconds: float) -> str:
    """Return minutes below two hours, hours above."""
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
