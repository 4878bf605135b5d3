"""The steps of the pipeline as KFP components.

A body is shipped as source, so it imports what it calls. The form's recipe is an object, for which
KFP's UI has an editor; each step gets the part that it depends on as one JSON string.
"""

# KFP reads the annotations as objects, so they must not be postponed.
from collections.abc import Callable
from typing import Any

from kfp import dsl  # noqa: TID253  (a component is made by a decorator)

from rlvr_components.platform.images import COMPONENTS_IMAGE, TRAINER_IMAGE

PASSTHROUGHS = [
    dsl.TaskConfigField.RESOURCES,
    dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
    dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
    dsl.TaskConfigField.KUBERNETES_AFFINITY,
    dsl.TaskConfigPassthrough(dsl.TaskConfigField.ENV, apply_to_task=True),
    dsl.TaskConfigPassthrough(dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
]
"""Settings of a model step's task that apply to its job, since its pod only follows the job."""


def component(image: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for a component on an image that has this package installed."""
    decorate: Callable[[Callable[..., Any]], Any] = dsl.component(
        base_image=image, install_kfp_package=False, **options
    )
    return decorate


@component(COMPONENTS_IMAGE)
def check(
    recipe: dict[str, Any],
    recipe_overrides: dict[str, Any],
    model_name: str,
    model_revision: str,
    evaluation_shots: list[int],
    job_place: str,
    job_namespace: str,
    job_num_nodes: int,
    job_gpus_per_node: int,
    job_queue: str,
    job_node_selector: dict[str, str],
    job_tolerations: list[dict[str, str]],
    job_platform: str,
    job_sagemaker: str,
    storage_uri: str,
    train_reuse: bool,
    publish_uri: str,
    resolved_recipe: dsl.OutputPath(str),  # type: ignore[valid-type]
    data_recipe: dsl.OutputPath(str),  # type: ignore[valid-type]
    base_recipe: dsl.OutputPath(str),  # type: ignore[valid-type]
    data_identity: dsl.OutputPath(str),  # type: ignore[valid-type]
    storage: dsl.OutputPath(str),  # type: ignore[valid-type]
    job_image: dsl.OutputPath(str),  # type: ignore[valid-type]
    reuse_key: dsl.OutputPath(str),  # type: ignore[valid-type]
    plan: dsl.Output[dsl.Markdown],
) -> None:
    """Check the recipe, the storage and the cluster before a GPU is requested.

    Args:
        recipe: The recipe.
        recipe_overrides: Fields to change, by their paths.
        model_name: Replaces the recipe's model.
        model_revision: The commit of that model.
        evaluation_shots: Replaces the recipe's numbers of shots.
        job_place: Backend of the model steps.
        job_namespace: Namespace of their jobs.
        job_num_nodes: Number of pods that train together.
        job_gpus_per_node: GPUs of a pod.
        job_queue: Kueue's local queue.
        job_node_selector: Labels that nodes must have.
        job_tolerations: Taints that pods tolerate.
        job_platform: Other settings of the platform.
        job_sagemaker: Settings of SageMaker.
        storage_uri: Storage of the run directories.
        train_reuse: Reuse an earlier training of the same inputs.
        publish_uri: Folder or s3://… for the model if it is better.
        resolved_recipe: The whole recipe as JSON.
        data_recipe: The part of it that the data depend on.
        base_recipe: The part of it that the base evaluation depends on.
        data_identity: Identity of the files that the recipe names.
        storage: The storage that holds the run's folder.
        job_image: The image of the jobs.
        reuse_key: A training is reused only if its key is the same.
        plan: The plan of the run.
    """
    from rlvr_components.preflight.form import Form
    from rlvr_components.steps.check_step import check
    from rlvr_components.steps.step_process import attempt

    with attempt("check"):
        form = Form(
            recipe=recipe,
            recipe_overrides=recipe_overrides,
            model_name=model_name,
            model_revision=model_revision,
            evaluation_shots=evaluation_shots,
            job_place=job_place,
            job_namespace=job_namespace,
            job_num_nodes=job_num_nodes,
            job_gpus_per_node=job_gpus_per_node,
            job_queue=job_queue,
            job_node_selector=job_node_selector,
            job_tolerations=job_tolerations,
            job_platform=job_platform,
            job_sagemaker=job_sagemaker,
        )
        checked = check(
            form,
            storage_uri=storage_uri,
            publish_uri=publish_uri,
            train_reuse=train_reuse,
            artifact_uri=plan.uri,
        )
        checked.write(
            recipe=resolved_recipe,
            data_recipe=data_recipe,
            base_recipe=base_recipe,
            data_identity=data_identity,
            storage=storage,
            job_image=job_image,
            reuse_key=reuse_key,
            plan=plan.path,
        )


@component(TRAINER_IMAGE)
def prepare_data(
    recipe: str,
    identity: str,
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Read the rows, split them, and set the unusable ones aside.

    Args:
        recipe: The part of the recipe that the data depend on (JSON).
        identity: Identity of the files that it names; with other content the step runs again.
        data: Train, validation and test rows, exemplars, and the manifest.
        metrics: The numbers of rows.
    """
    from pathlib import Path

    from rlvr_components.steps.model_steps import data_facts
    from rlvr_components.steps.step_process import log_metrics, step
    from rlvr_trainer import api

    with step("prepare", recipe) as parsed:
        manifest = api.prepare(parsed, Path(data.path))
        data.metadata |= data_facts(manifest)
        log_metrics(metrics, manifest["counts"])


@component(COMPONENTS_IMAGE, task_config_passthroughs=PASSTHROUGHS)
def evaluate_base(
    recipe: str,
    place: str,
    storage: str,
    job_image: str,
    data: dsl.Input[dsl.Dataset],
    samples: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    task_config: dsl.TaskConfig,
) -> None:
    """Evaluate the model before training.

    Args:
        recipe: The part of the recipe that the evaluation depends on (JSON).
        place: Backend of the step.
        storage: The storage that holds the run's folder.
        job_image: The job's image; with another one the step runs again.
        data: The prepared data.
        samples: The completions of all test rows.
        metrics: Shares of correct and of well-formed completions.
        task_config: Settings of this task, for its job.
    """
    from pathlib import Path

    from rlvr_components.steps.model_steps import evaluate
    from rlvr_components.steps.step_process import log_metrics, step

    with step("evaluate-base", recipe) as parsed:
        shares = evaluate(
            "evaluate-base",
            parsed,
            Path(data.path),
            Path(samples.path),
            place=place,
            storage=storage,
            task_config=task_config,
        )
        log_metrics(metrics, shares)


@component(COMPONENTS_IMAGE, task_config_passthroughs=PASSTHROUGHS)
def train(
    recipe: str,
    place: str,
    storage: str,
    job_image: str,
    reuse_key: str,
    data: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    task_config: dsl.TaskConfig,
) -> None:
    """Train with GRPO: launch the job and follow it until it terminates.

    Args:
        recipe: The recipe as JSON.
        place: Backend of the step.
        storage: The storage that holds the run's folder; empty: beside the adapter.
        job_image: The job's image; with another one the step runs again.
        reuse_key: A training is reused only if its key is the same.
        data: The prepared data.
        adapter: The trained adapter and the tokenizer.
        history: The events of the run, one JSON object a line.
        metrics: The numbers of the last step.
        task_config: Settings of this task, for its job.
    """
    from pathlib import Path

    from rlvr_components.steps.model_steps import train
    from rlvr_components.steps.step_process import log_metrics, step

    with step("train", recipe) as parsed:
        numbers = train(
            parsed,
            Path(data.path),
            adapter,
            Path(history.path),
            place=place,
            storage=storage,
            task_config=task_config,
        )
        log_metrics(metrics, numbers)


@component(COMPONENTS_IMAGE, task_config_passthroughs=PASSTHROUGHS)
def evaluate_trained(
    recipe: str,
    place: str,
    storage: str,
    job_image: str,
    data: dsl.Input[dsl.Dataset],
    adapter: dsl.Input[dsl.Model],
    samples: dsl.Output[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    task_config: dsl.TaskConfig,
) -> None:
    """Evaluate the model with its trained adapter.

    Args:
        recipe: The recipe as JSON.
        place: Backend of the step.
        storage: The storage that holds the run's folder.
        job_image: The job's image; with another one the step runs again.
        data: The prepared data.
        adapter: The trained adapter.
        samples: The completions of all test rows.
        model: The adapter, with its accuracy as metadata.
        metrics: Shares of correct and of well-formed completions.
        task_config: Settings of this task, for its job.
    """
    from pathlib import Path

    from rlvr_components.steps.model_steps import describe_model, evaluate
    from rlvr_components.steps.step_process import log_metrics, step

    with step("evaluate-trained", recipe) as parsed:
        shares = evaluate(
            "evaluate-trained",
            parsed,
            Path(data.path),
            Path(samples.path),
            place=place,
            storage=storage,
            task_config=task_config,
            adapter=adapter,
        )
        model.uri = adapter.uri
        model.metadata |= {**describe_model(parsed), "accuracy": shares["accuracy"]}
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
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
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
        summary: The verdict, the numbers, and how to repeat them.
        metrics: Accuracy before and after at the trained shots.

    Returns:
        True if accuracy rose significantly.
    """
    from pathlib import Path

    from rlvr_components.steps.compare_step import compare, headline_numbers, is_better
    from rlvr_components.steps.step_process import log_metrics, step

    with step("report", recipe) as parsed:
        comparison = compare(
            parsed,
            data=Path(data.path),
            before=Path(before.path),
            after=Path(after.path),
            history=Path(history.path),
            evaluation=Path(evaluation.path),
            samples=Path(samples.path),
            report=Path(report.path),
            summary=Path(summary.path),
        )
        log_metrics(metrics, headline_numbers(comparison))
        return is_better(comparison)


@component(TRAINER_IMAGE)
def publish(
    recipe: str,
    uri: str,
    merge: bool,
    is_better: bool,
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    published: dsl.Output[dsl.Markdown],
) -> str:
    """Publish the model with its card, if that is requested and accuracy rose significantly.

    Args:
        recipe: The recipe as JSON.
        uri: A folder or s3://…; empty: nowhere.
        merge: Merge the adapter into the model.
        is_better: True if accuracy rose significantly.
        model: The trained adapter.
        evaluation: Accuracy by shots (JSON).
        published: What was decided, and the URI of the model.

    Returns:
        The URI of the model; empty if it was not published.
    """
    from pathlib import Path

    from rlvr_components.steps.publish_step import describe, publish_model
    from rlvr_components.steps.step_process import step

    with step("publish", recipe) as parsed:
        target = ""
        if uri and is_better:
            target = publish_model(
                parsed, Path(model.path), Path(evaluation.path), uri, merge=merge
            )
        text = describe(target, is_requested=bool(uri))
        print(text)
        Path(published.path).write_text(f"{text}\n", encoding="utf-8")
        return target


@component(COMPONENTS_IMAGE)
def finish(
    storage_uri: str,
    outcome: dsl.Output[dsl.Markdown],
    status: dsl.PipelineTaskFinalStatus,
) -> None:
    """Delete the jobs that still run, and write the outcome of the run.

    Args:
        storage_uri: Storage of the run directories.
        outcome: The outcome of the run.
        status: The final status of the steps, by KFP.
    """
    from pathlib import Path

    from rlvr_components.steps.finish import finish
    from rlvr_components.steps.step_process import attempt

    with attempt("finish"):
        text = finish(storage_uri, outcome.uri, status.state, status.error_message or "")
        Path(outcome.path).write_text(text, encoding="utf-8")
