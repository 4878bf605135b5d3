"""The steps of the pipeline. Each body is shipped as source and calls the trainer.

The recipe travels as one JSON string. Whatever a body uses is imported within it.
"""

# KFP reads the annotations as objects, so they must not be postponed.
from collections.abc import Callable
from typing import Any

from kfp import dsl  # noqa: TID253  (a component is made by a decorator)

from rlvr_components.images import COMPONENTS_IMAGE, TRAINER_IMAGE


def component(image: str) -> Callable[[Callable[..., None]], Any]:
    """A lightweight component on an image that holds this package, so that nothing is installed."""
    decorate: Callable[[Callable[..., None]], Any] = dsl.component(
        base_image=image, install_kfp_package=False
    )
    return decorate


@component(TRAINER_IMAGE)
def prepare_data(
    recipe: str, data: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]
) -> None:
    """Read the rows, split them, and set the unusable ones aside.

    Args:
        recipe: The recipe as JSON.
        data: Train, validation and test rows, exemplars, and the manifest.
        metrics: The number of rows in each of them.
    """
    from pathlib import Path

    from rlvr_components.step import log_metrics, step
    from rlvr_trainer import steps

    with step("prepare", recipe) as parsed:
        manifest = steps.prepare(parsed, Path(data.path))
        log_metrics(metrics, manifest["counts"])


@component(TRAINER_IMAGE)
def evaluate_base(
    recipe: str,
    data: dsl.Input[dsl.Dataset],
    samples: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Evaluate the model as it is before training.

    Args:
        recipe: The recipe as JSON.
        data: The prepared data.
        samples: What the model answered to each test row.
        metrics: Shares of correct and of well-formed answers.
    """
    from pathlib import Path

    from rlvr_components.step import log_metrics, step
    from rlvr_trainer import steps

    with step("evaluate-base", recipe) as parsed:
        shares = steps.evaluate(parsed, Path(data.path), Path(samples.path), label="before")
        log_metrics(metrics, shares)


@component(TRAINER_IMAGE)
def train(
    recipe: str,
    run_dir: str,
    data: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train with GRPO: launch the job and follow it to its end.

    Args:
        recipe: The recipe as JSON.
        run_dir: Where the job keeps its checkpoints; empty: beside the adapter.
        data: The prepared data.
        adapter: The trained adapter and the tokenizer.
        history: The events of the run, one JSON object a line.
        metrics: The numbers of the last step.
    """
    import shutil
    from pathlib import Path

    from rlvr_components.step import log_metrics, step
    from rlvr_components.training import last_numbers, run_training
    from rlvr_trainer import steps

    with step("train", recipe) as parsed:
        run = Path(run_dir or Path(adapter.path).parent / "run")
        run_training(parsed, run, Path(data.path))
        steps.adapter_to(run, Path(adapter.path))
        shutil.copyfile(run / "metrics.jsonl", history.path)
        adapter.metadata["base_model"] = parsed.model.name
        adapter.metadata["base_revision"] = parsed.model.revision
        adapter.metadata["recipe_hash"] = parsed.hash
        log_metrics(metrics, last_numbers(run))


@component(TRAINER_IMAGE)
def evaluate_trained(
    recipe: str,
    data: dsl.Input[dsl.Dataset],
    adapter: dsl.Input[dsl.Model],
    samples: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Evaluate the model with its trained adapter.

    Args:
        recipe: The recipe as JSON.
        data: The prepared data.
        adapter: The trained adapter.
        samples: What the model answered to each test row.
        metrics: Shares of correct and of well-formed answers.
    """
    from pathlib import Path

    from rlvr_components.step import log_metrics, step
    from rlvr_trainer import steps

    with step("evaluate-trained", recipe) as parsed:
        shares = steps.evaluate(
            parsed,
            Path(data.path),
            Path(samples.path),
            label="after",
            adapter_dir=Path(adapter.path),
        )
        log_metrics(metrics, shares)


@component(COMPONENTS_IMAGE)
def compare_and_report(
    recipe: str,
    data: dsl.Input[dsl.Dataset],
    before: dsl.Input[dsl.Dataset],
    after: dsl.Input[dsl.Dataset],
    history: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    samples: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Compare both evaluations row by row, and write the report.

    Args:
        recipe: The recipe as JSON.
        data: The prepared data.
        before: The base model's samples.
        after: The trained model's samples.
        history: The events of the run.
        evaluation: Accuracy by shots, with intervals and a test (JSON).
        samples: All samples, before and after.
        report: The report, one HTML file.
        metrics: Accuracy before and after at the trained shots.
    """
    import shutil
    import tempfile
    from pathlib import Path

    from rlvr_components.step import log_metrics, step
    from rlvr_trainer import steps

    with step("report", recipe) as parsed, tempfile.TemporaryDirectory() as folder:
        found = steps.compare(
            parsed,
            Path(data.path),
            Path(before.path),
            Path(after.path),
            Path(history.path),
            Path(folder),
        )
        shutil.copyfile(Path(folder, "evaluation.json"), evaluation.path)
        shutil.copyfile(Path(folder, "samples.jsonl"), samples.path)
        shutil.copyfile(Path(folder, "report.html"), report.path)
        trained = found["shots"][str(found["headline_shots"])]
        log_metrics(
            metrics,
            {
                "accuracy_before": trained["before"]["accuracy"],
                "accuracy_after": trained["after"]["accuracy"],
                "mcnemar_p": trained["mcnemar_p"],
            },
        )
