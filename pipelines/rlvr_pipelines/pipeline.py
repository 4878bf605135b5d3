"""The pipeline: the same function runs on this machine and compiles for Kubeflow."""

# KFP reads the annotations as objects, so they must not be postponed.
from typing import Any, NamedTuple

from kfp import dsl  # noqa: TID253  (a pipeline is made by a decorator)

from rlvr_components.images import Images
from rlvr_components.steps import (
    compare_and_report,
    evaluate_base,
    evaluate_trained,
    prepare_data,
    train,
)

PHASE_BY_TASK = {
    "prepare-data": "prepare",
    "evaluate-base": "evaluate-base",
    "train": "train",
    "evaluate-trained": "evaluate-trained",
    "compare-and-report": "report",
}
"""The phase that each task's events name."""


class Outputs(NamedTuple):
    """What a run gives."""

    data: dsl.Dataset
    evaluation: dsl.Artifact
    samples: dsl.Dataset
    report: dsl.HTML


def build(images: Images | None = None, *, secret: str = "") -> Any:
    """The pipeline on these images; each step's environment has the keys of `secret`, by name."""
    return rlvr_pipeline


@dsl.pipeline(  # type: ignore[untyped-decorator]
    name="rlvr",
    description="Reinforcement learning with verifiable rewards: prepare, train, evaluate, report.",
)
def rlvr_pipeline(
    recipe: str = "gsm8k",
    recipe_overrides: str = "",
    model_name: str = "",
    model_revision: str = "",
    evaluation_shots: list[int] = [],  # noqa: B006  (KFP copies it)
    job_place: str = "pytorchjob",
    job_namespace: str = "",
    job_num_nodes: int = 0,
    job_gpus_per_node: int = -1,
    job_queue: str = "",
    job_node_selector: dict[str, str] = {},  # noqa: B006
    job_tolerations: list[dict[str, str]] = [],  # noqa: B006
    job_platform: str = "",
    storage_uri: str = "",
    train_reuse: bool = False,
    publish_uri: str = "",
    publish_merge: bool = False,
    run_dir: str = "",
) -> Outputs:
    """Prepare data, then evaluate the base model and train, evaluate again, compare.

    Args:
        recipe: The recipe: the name of one that is shipped, or a recipe as JSON or YAML.
        recipe_overrides: Fields to change, one `section.field=value` a line (or a JSON list).
        model_name: Trains this model instead of the recipe's; empty: the recipe's.
        model_revision: Its commit, for a model on the hub.
        evaluation_shots: Numbers of shots to evaluate at; empty: the recipe's.
        job_place: Where the model steps run: pytorchjob, trainjob, or local (their own pods).
        job_namespace: Where their jobs are created; empty: the pipeline's own namespace.
        job_num_nodes: Pods that train together; 0: as the platform's settings have it.
        job_gpus_per_node: GPUs of each pod, 0 for a CPU; -1: as the platform's settings have it.
        job_queue: Kueue's local queue; empty: as the platform's settings have it.
        job_node_selector: Labels that a job's nodes must have, beside the platform's.
        job_tolerations: Taints that a job's pods tolerate, beside the platform's.
        job_platform: Other settings of the platform, as JSON or YAML; they go before the ConfigMap
            rlvr-platform of the namespace.
        storage_uri: Where jobs keep their run directories: s3://bucket/prefix, or a path on a
            volume of all pods; empty: beside this pipeline's artifacts.
        train_reuse: Take the adapter of an earlier run of the same recipe, data and settings.
        publish_uri: Where the model goes once it is significantly better; empty: nowhere.
        publish_merge: Publish the merged model, not the adapter alone.
        run_dir: For a run on this machine: where training keeps its checkpoints.
    """
    prepared = prepare_data(recipe=recipe).set_display_name("Prepare data")
    data = prepared.outputs["data"]
    base = evaluate_base(recipe=recipe, data=data).set_display_name("Evaluate base model")
    trained = train(recipe=recipe, run_dir=run_dir, data=data).set_display_name("Train")
    trained.set_caching_options(False)  # it continues from its own checkpoints
    evaluated = evaluate_trained(
        recipe=recipe, data=data, adapter=trained.outputs["adapter"]
    ).set_display_name("Evaluate trained model")
    compared = compare_and_report(
        recipe=recipe,
        data=data,
        before=base.outputs["samples"],
        after=evaluated.outputs["samples"],
        history=trained.outputs["history"],
    ).set_display_name("Compare and report")
    return Outputs(
        data=data,
        evaluation=compared.outputs["evaluation"],
        samples=compared.outputs["samples"],
        report=compared.outputs["report"],
    )
