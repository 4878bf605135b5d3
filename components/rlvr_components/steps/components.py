"""The steps of the pipeline. Each body is shipped as source and calls what this package holds.

A recipe travels as one JSON string; a step gets the part that it depends on. Whatever a body uses
is imported within it.
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
"""What is set on a model step with KFP's own means is for its job, which its pod only follows."""


def component(image: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A lightweight component on an image that holds this package, so that nothing is installed."""
    decorate: Callable[[Callable[..., Any]], Any] = dsl.component(
        base_image=image, install_kfp_package=False, **options
    )
    return decorate


@component(COMPONENTS_IMAGE)
def check(
    recipe: str,
    recipe_overrides: str,
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
    """Check the recipe, the storage and the cluster before a GPU is asked for.

    Args:
        recipe: A shipped recipe's name, or a recipe as JSON or YAML.
        recipe_overrides: One `section.field=value` a line, or a JSON list of them.
        model_name: Replaces the recipe's model.
        model_revision: Its commit.
        evaluation_shots: Replaces the recipe's numbers of shots.
        job_place: Where the model steps run.
        job_namespace: Where their jobs are created.
        job_num_nodes: Pods that train together.
        job_gpus_per_node: GPUs of each pod.
        job_queue: Kueue's local queue.
        job_node_selector: Labels that nodes must have.
        job_tolerations: Taints that pods tolerate.
        job_platform: Other settings of the platform.
        storage_uri: Where jobs keep their run directories.
        train_reuse: Whether an earlier training of the same inputs will do.
        publish_uri: Where the model goes if it is better.
        resolved_recipe: The whole recipe as JSON.
        data_recipe: The part that the data depend on.
        base_recipe: The part that the base evaluation depends on.
        data_identity: Of the files that the recipe names.
        storage: The folder that holds the run's own.
        job_image: The image of the jobs.
        reuse_key: A training is reused for the same one only.
        plan: What will run, and where.
    """
    from pathlib import Path

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
        )
        checked = check(
            form,
            storage_uri=storage_uri,
            publish_uri=publish_uri,
            train_reuse=train_reuse,
            artifact_uri=plan.uri,
        )
        for path, value in (
            (resolved_recipe, checked.recipe.model_dump_json()),
            (data_recipe, checked.data_recipe.model_dump_json()),
            (base_recipe, checked.base_recipe.model_dump_json()),
            (data_identity, checked.data_identity),
            (storage, checked.storage),
            (job_image, checked.job_image),
            (reuse_key, checked.reuse_key),
            (plan.path, checked.plan),
        ):
            Path(path).write_text(value, encoding="utf-8")


@component(TRAINER_IMAGE)
def prepare_data(
    recipe: str,
    identity: str,
    data: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Read the rows, split them, and set the unusable ones aside.

    Args:
        recipe: What the data depend on, as a recipe (JSON).
        identity: Of the files that it names: other content is prepared anew.
        data: Train, validation and test rows, exemplars, and the manifest.
        metrics: The number of rows in each of them.
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
    """Evaluate the model as it is before training.

    Args:
        recipe: What the evaluation depends on, as a recipe (JSON).
        place: Where it runs.
        storage: The folder that holds the run's own.
        job_image: Of the job: another one evaluates anew.
        data: The prepared data.
        samples: What the model answered to each test row.
        metrics: Shares of correct and of well-formed answers.
        task_config: What was set on this task, for its job.
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
    """Train with GRPO: launch the job and follow it to its end.

    Args:
        recipe: The recipe as JSON.
        place: Where it runs.
        storage: The folder that holds the run's own; empty: beside the adapter.
        job_image: Of the job.
        reuse_key: Another one trains anew, and each run has its own unless told otherwise.
        data: The prepared data.
        adapter: The trained adapter and the tokenizer.
        history: The events of the run, one JSON object a line.
        metrics: The numbers of the last step.
        task_config: What was set on this task, for its job.
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
        place: Where it runs.
        storage: The folder that holds the run's own.
        job_image: Of the job: another one evaluates anew.
        data: The prepared data.
        adapter: The trained adapter.
        samples: What the model answered to each test row.
        model: The adapter again, with the accuracy that it reached.
        metrics: Shares of correct and of well-formed answers.
        task_config: What was set on this task, for its job.
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
        summary: The verdict and the numbers, and how to repeat them.
        metrics: Accuracy before and after at the trained shots.

    Returns:
        Whether accuracy rose significantly.
    """
    import shutil
    import tempfile
    from pathlib import Path

    from rlvr_components.steps.step_process import log_metrics, step
    from rlvr_components.steps.summary import is_better, summarise
    from rlvr_trainer import api

    with step("report", recipe) as parsed, tempfile.TemporaryDirectory() as folder:
        found = api.compare(
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
        Path(summary.path).write_text(summarise(parsed, found), encoding="utf-8")
        trained = found["shots"][str(found["headline_shots"])]
        log_metrics(
            metrics,
            {
                "accuracy_before": trained["before"]["accuracy"],
                "accuracy_after": trained["after"]["accuracy"],
                "mcnemar_p": trained["mcnemar_p"],
            },
        )
        return is_better(found)


@component(TRAINER_IMAGE)
def publish(
    recipe: str,
    uri: str,
    merge: bool,
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    published: dsl.Output[dsl.Markdown],
) -> str:
    """Write the model with its card where others find it.

    Args:
        recipe: The recipe as JSON.
        uri: A folder or s3://….
        merge: Merge the adapter into the model.
        model: The trained adapter.
        evaluation: Accuracy by shots (JSON).
        published: Where it is.

    Returns:
        Where it is.
    """
    from pathlib import Path

    from rlvr_components.steps.publish_step import publish
    from rlvr_components.steps.step_process import step

    with step("publish", recipe) as parsed:
        where = publish(parsed, Path(model.path), Path(evaluation.path), uri, merge=merge)
        Path(published.path).write_text(f"Published to `{where}`.\n", encoding="utf-8")
        return where


@component(COMPONENTS_IMAGE)
def finish(
    storage_uri: str,
    outcome: dsl.Output[dsl.Markdown],
    status: dsl.PipelineTaskFinalStatus,
) -> None:
    """Leave nothing running, and write down how the run ended.

    Args:
        storage_uri: Where jobs keep their run directories.
        outcome: How the run ended.
        status: How the steps ended.
    """
    from pathlib import Path

    from rlvr_components.steps.finish import finish
    from rlvr_components.steps.step_process import attempt

    with attempt("finish"):
        text = finish(storage_uri, outcome.uri, status.state, status.error_message or "")
        Path(outcome.path).write_text(text, encoding="utf-8")
