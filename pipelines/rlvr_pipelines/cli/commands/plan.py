"""`rlvr plan`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.cli.groups import (
    COST_PLACES,
    CostOptions,
    JobOptions,
    SageMakerOptions,
    check_places,
    cluster_options,
    cost_options,
    job_options,
    require_storage,
    sagemaker_options,
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

_CLUSTER = ("pytorchjob", "trainjob")
PLACES = {
    **dict.fromkeys((*JobOptions.__dataclass_fields__, "namespace", "context"), _CLUSTER),
    **dict.fromkeys(("storage", "num_nodes"), (*_CLUSTER, "sagemaker")),
    **dict.fromkeys(SageMakerOptions.__dataclass_fields__, ("sagemaker",)),
    **COST_PLACES,
}
"""Option → the places where it has an effect."""

SHOWN_BEGINNING, SHOWN_END = 400, 600
"""Characters of a prompt that are shown."""


@click.command("plan", short_help="Print what a run of RECIPE does, without running it.")
@recipe_options
@run_dir_option
@click.option(
    "--on",
    "place",
    type=click.Choice(["local", "pytorchjob", "trainjob", "sagemaker"]),
    default="local",
    show_default=True,
    help="Where to train.",
)
@job_options
@sagemaker_options
@cluster_options
@cost_options
@output_option
@debug_option
def plan_command(
    recipe: str,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
    place: Literal["local", "pytorchjob", "trainjob", "sagemaker"],
    job: JobOptions,
    sagemaker: SageMakerOptions,
    access: AccessOptions,
    cost: CostOptions,
    output: str,
) -> None:
    """Print the recipe, steps, sizes, job and price of a run of RECIPE, without running it.

    \b
    rlvr plan gsm8k
    rlvr plan gsm8k --on pytorchjob --storage s3://bucket/runs --nodes 2 --gpus 8
    rlvr plan gsm8k --on sagemaker --storage s3://bucket/runs --sagemaker settings.yaml
    """
    from rlvr_pipelines.pipeline.run_cost import price_of
    from rlvr_pipelines.pipeline.run_plan import plan_in_cluster, plan_local

    check_places(place, PLACES)
    loaded = load(recipe, overrides, seed)
    path = run_dir or default_run_dir(loaded)
    if place == "local":
        planned, price = plan_local(loaded, path), None
    else:
        if place == "sagemaker":
            job_there = _sagemaker_job(loaded, path, job, sagemaker, cost)
        else:
            job_there = _cluster_job(loaded, path, place, job, access, cost)
        planned = plan_in_cluster(loaded, path, job_there)
        price = price_of(
            loaded, planned.sizes, job_there.platform, cost.instance_type, cost.max_cost_usd
        )
    if output == "json":
        print_json(planned.facts() | ({"cost": price.facts} if price else {}))
    else:
        click.echo(_describe(planned, price.lines if price else ()))


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
        from rlvr_pipelines.pipeline.run_cost import time_limits

        limits = time_limits(recipe, platform, cost.instance_type, cost.max_cost_usd)
        platform = platform.model_copy(update=limits)
    return job_plan.plan_job(
        recipe,
        place,
        platform,
        storage=storage,
        run_id=job_plan.run_id_of(recipe, run_dir),
        overrides=job_plan.known_overrides(place),
    )


def _sagemaker_job(
    recipe: Recipe,
    run_dir: Path,
    job: JobOptions,
    sagemaker: SageMakerOptions,
    cost: CostOptions,
) -> ClusterJob:
    from rlvr_pipelines.extras import S3, require

    require(S3, "a plan for SageMaker")
    from rlvr_pipelines.sagemaker.sagemaker_plan import ORIGIN, plan_job

    storage = require_storage("sagemaker", job.storage)
    settings = sagemaker.settings(job)
    if cost.max_cost_usd is not None:
        from rlvr_components.sagemaker.sagemaker_settings import parse_sagemaker
        from rlvr_pipelines.pipeline.run_cost import time_limits

        parsed = parse_sagemaker(settings, origin=ORIGIN)
        settings |= time_limits(recipe, parsed, cost.instance_type, cost.max_cost_usd)
    return plan_job(recipe, settings, storage=storage, run_dir=run_dir)


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
        *_jobs(plan),
        f"world   {plan.world_size} processes: {nodes}",
        f"job     {plan.job.name}, with its files in {plan.job.run_dir}:",
        "---",
        manifest.rstrip(),
    ])  # fmt: skip


def _jobs(plan: Plan) -> list[str]:
    """Return the line on the jobs of a run on SageMaker, where each of them waits and costs."""
    if not isinstance(plan.rendered, dict) or "TrainingJobName" not in plan.rendered:
        return []
    from rlvr_pipelines.sagemaker.sagemaker_plan import describe_jobs

    return [f"jobs    {describe_jobs(plan.rendered)}"]


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
