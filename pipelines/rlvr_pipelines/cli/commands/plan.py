"""`rlvr plan`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import (
    CostOptions,
    JobOptions,
    check_places,
    cluster_options,
    cost_options,
    job_options,
    require_storage,
)
from rlvr_pipelines.cli.options import (
    debug_option,
    default_run_dir,
    load,
    output_option,
    print_json,
    recipe_options,
    run_dir_option,
)

if TYPE_CHECKING:
    from rlvr_pipelines.cluster.job_plan import ClusterJob
    from rlvr_pipelines.pipeline.run_plan import Plan, Sizes
    from rlvr_trainer.recipe.schema import Recipe

PLACES = dict.fromkeys(
    (
        *JobOptions.__dataclass_fields__,
        *CostOptions.__dataclass_fields__,
        *("namespace", "context"),
    ),
    ("pytorchjob", "trainjob"),
)
"""Option → the places where it has an effect."""

SHOWN_BEGINNING, SHOWN_END = 400, 600
"""Characters of a prompt that are shown."""


@click.command("plan", short_help="Print what a run of RECIPE does, without running it.")
@recipe_options
@run_dir_option
@click.option(
    "--on",
    "place",
    type=click.Choice(["local", "pytorchjob", "trainjob"]),
    default="local",
    show_default=True,
    help="Where to train.",
)
@job_options
@cluster_options
@cost_options
@output_option
@debug_option
def plan_command(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
    place: Literal["local", "pytorchjob", "trainjob"],
    job: JobOptions,
    access: AccessOptions,
    cost: CostOptions,
    output: str,
) -> None:
    """Print the recipe, steps, sizes, job and price of a run of RECIPE, without running it.

    \b
    rlvr plan gsm8k
    rlvr plan gsm8k --on pytorchjob --storage s3://bucket/runs --nodes 2 --gpus 8
    """
    from rlvr_pipelines.pipeline.run_plan import plan_in_cluster, plan_local

    check_places(place, PLACES)
    loaded = load(recipe, overrides, seed)
    path = run_dir or default_run_dir(loaded)
    if place == "local":
        planned, priced = plan_local(loaded, path), None
    else:
        cluster_job = _cluster_job(loaded, path, place, job, access, cost)
        planned = plan_in_cluster(loaded, path, cluster_job)
        priced = _price(planned, cluster_job, cost)
    if output == "json":
        print_json(planned.facts() | ({"cost": priced.facts} if priced else {}))
    else:
        click.echo(_describe(planned, priced.lines if priced else ()))


def _cluster_job(
    recipe: Recipe,
    run_dir: Path,
    place: Literal["pytorchjob", "trainjob"],
    job: JobOptions,
    access: AccessOptions,
    cost: CostOptions,
) -> ClusterJob:
    from rlvr_components.kubernetes.access import has_cluster, use_context

    use_context(access.context)
    if has_cluster():
        from rlvr_pipelines.extras import KUBERNETES, require

        require(KUBERNETES, "a plan for a cluster")
    from rlvr_components.preflight.form import Form
    from rlvr_pipelines.cluster import job_plan
    from rlvr_pipelines.pipeline.job_parameters import job_parameters

    storage = require_storage(place, job.storage)
    chosen = job_parameters(
        place=place, namespace=access.namespace, storage="", settings=job.settings()
    )
    platform = job_plan.platform_of(Form(recipe={}, **chosen))
    if cost.max_cost_usd is not None:
        from rlvr_pipelines.pipeline.run_cost import training_limit_s

        limit_s = training_limit_s(
            recipe,
            platform,
            instance_type=cost.instance_type,
            max_cost_usd=cost.max_cost_usd,
        )
        platform = platform.model_copy(update={"run_timeout_s": limit_s})
    return job_plan.plan_job(
        recipe,
        place,
        platform,
        storage=storage,
        run_id=job_plan.run_id_of(recipe, run_dir),
        overrides=job_plan.known_overrides(place),
    )


@dataclass(frozen=True)
class _Price:
    facts: Mapping[str, Any]
    lines: Sequence[str]


def _price(plan: Plan, job: ClusterJob, cost: CostOptions) -> _Price:
    from rlvr_pipelines.pipeline.run_cost import (
        CostUnknown,
        cost_facts,
        describe_cost,
        duration,
        estimate_in_cluster,
    )

    try:
        planned = estimate_in_cluster(plan.recipe, plan.sizes, job.platform, cost.instance_type)
    except CostUnknown as reason:
        return _Price({"unknown": str(reason)}, [f"cost    unknown: {reason}"])
    facts, lines = cost_facts(planned), describe_cost(planned)
    if cost.max_cost_usd is not None:
        limit_s = job.platform.run_timeout_s
        facts["run_timeout_s"] = limit_s
        lines.append(f"limit   the training is stopped after {duration(limit_s)}")
    return _Price(facts, lines)


def _describe(plan: Plan, cost: Sequence[str]) -> str:
    import yaml

    from rlvr_components.jobs.local_process import LocalProcess
    from rlvr_trainer.evaluation.outcome import count

    recipe = yaml.safe_dump(
        plan.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=96
    )
    steps = list(plan.facts()["steps"])
    sizes = (
        _sizes(plan.sizes)
        if plan.sizes
        else ["rows    not on this machine; counted when they are read"]
    )
    lines = [
        recipe.rstrip(),
        "",
        f"recipe  {plan.recipe.name}, hash {plan.recipe.hash}",
        f"runs    {', '.join(steps)}",
        f"into    {plan.run_dir}",
        *sizes,
        *cost,
        *(_prompt(plan.sizes.prompt) if plan.sizes else ()),
    ]
    if isinstance(plan.rendered, LocalProcess):
        return "\n".join([*lines, f"job     {plan.job.name}: {shlex.join(plan.rendered.argv)}"])
    resources = plan.job.resources
    gpus = count(resources.gpus_per_node, "GPU") if resources.gpus_per_node else "no GPU"
    nodes = f"{count(resources.num_nodes, 'node')} with {gpus} each"
    manifest = yaml.safe_dump(plan.rendered, sort_keys=False, allow_unicode=True, width=96)
    return "\n".join([
        *lines,
        f"world   {plan.world_size} processes: {nodes}",
        f"job     {plan.job.name}, with its files in {plan.job.run_dir}:",
        "---",
        manifest.rstrip(),
    ])  # fmt: skip


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items())


def _sizes(sizes: Sizes) -> list[str]:
    rows = ", ".join(f"{count:,} {name}" for name, count in sizes.num_rows.items())
    reasons = _counted(sizes.quarantined)
    return [
        f"rows    {rows}" + (reasons and f" ({reasons})"),
        *(f"        {split}: {_counted(oddities)}" for split, oddities in sizes.oddities.items()),
        f"train   {sizes.num_steps:,} steps of {sizes.completions_per_step:,} completions "
        f"({sizes.questions_per_step:,} questions)",
        f"tokens  at most {sizes.tokens_per_step:,} a step (about: header {sizes.header_tokens:,}, "
        f"question {sizes.question_tokens:,})",
        f"test    {sizes.num_evaluated:,} completions before and as many after",
        *(f"warning {warning}" for warning in sizes.reward_warnings),
    ]


def _prompt(text: str) -> list[str]:
    """Return the lines of a prompt, without the middle of a long one, between its quotes."""
    beginning, end = text[:SHOWN_BEGINNING], text[SHOWN_BEGINNING:]
    if len(end) > SHOWN_END:
        end = f"\n  … {len(end) - SHOWN_END:,} characters …\n{end[-SHOWN_END:]}"
    first, *others = f"{beginning}{end}".split("\n")
    return [f"prompt  {first}", *(f"        {line}".rstrip() for line in others)]
