"""The pipeline: the same function runs on this machine and compiles for Kubeflow."""

# KFP reads the annotations as objects, so they must not be postponed.
from typing import NamedTuple

from kfp import dsl  # noqa: TID253  (a pipeline is made by a decorator)

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


@dsl.pipeline(  # type: ignore[untyped-decorator]
    name="rlvr",
    description="Reinforcement learning with verifiable rewards: prepare, train, evaluate, report.",
)
def rlvr_pipeline(recipe: str, run_dir: str = "") -> Outputs:
    """Prepare data, then evaluate the base model and train, evaluate again, compare.

    Args:
        recipe: The recipe as JSON.
        run_dir: Where training keeps its checkpoints, so that another run continues from them.
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
