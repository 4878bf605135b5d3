"""The pipeline as Kubeflow runs it; `local/child.py` calls the same steps on this machine.

    check → prepare data → evaluate base ∥ train → evaluate trained → compare and report → publish

`finish` always runs last, also after Terminate, for which it needs the group `Run` around the
others. The model steps launch jobs and follow them. This module sets what only
Kubeflow can do for a step: image, security context, retries.
"""

# KFP reads the annotations as objects, so they must not be postponed.
from typing import Any

from kfp import dsl, kubernetes  # noqa: TID253  (a decorator makes the pipeline)

from rlvr_components.platform.images import Images
from rlvr_components.platform.settings import SECRET_KEYS
from rlvr_components.steps import components
from rlvr_trainer.variables import NAMESPACE_VARIABLE, RUN_ID_VARIABLE

HOUR_S = 3600
LAUNCHER_RETRIES = 2
"""The retries of a step that follows a job: a retry adopts a live job.

The pipeline's spec has no retry policy, so Argo's configuration decides. The one that KFP 2.17
ships retries a step whose pod was deleted (drain, eviction by the API, lost node), but not one
whose process was killed (node pressure, memory) or exited with an error. Without it, Argo does the
opposite, and also retries permanent errors (exit codes 2 to 99), which fail again in seconds. In
each case the job continues, and KFP's Retry of the run adopts it. `manifests/README.md` has a
configuration of Argo that retries all lost pods and no permanent error.
"""
LAUNCHER_LIFE = "52 weeks"
"""By default, KFP ends retries, and retried pods, an hour after the first attempt began."""
STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Annotations that keep a launcher's node, while a launcher is on it."""


def build(images: Images | None = None, *, secret: str = "") -> Any:
    """Build the pipeline on these images, with the keys of the Secret in the steps' environment."""
    chosen = images or Images()

    def on_kubernetes(task: Any, title: str, *, timeout_s: int = 0) -> Any:
        task.set_display_name(title)
        if images is not None:
            trains = task.name in ("prepare-data", "publish")
            task.set_container_image(chosen.trainer if trains else chosen.components)
        kubernetes.set_security_context(task, run_as_non_root=True)
        kubernetes.use_field_path_as_env(task, RUN_ID_VARIABLE, "metadata.labels['pipeline/runid']")
        kubernetes.use_field_path_as_env(task, NAMESPACE_VARIABLE, "metadata.namespace")
        if secret:
            keys = {key: key for key in SECRET_KEYS}
            kubernetes.use_secret_as_env(task, secret, keys, optional=True)
        if timeout_s:
            kubernetes.set_timeout(task, timeout_s)
        return task

    def launches(task: Any, title: str) -> None:
        on_kubernetes(task, title)  # a job has its own deadlines
        task.set_retry(
            LAUNCHER_RETRIES,
            backoff_duration="5s",
            backoff_factor=1,
            backoff_max_duration=LAUNCHER_LIFE,
        )
        for name, value in STAY.items():
            kubernetes.add_pod_annotation(task, name, value)

    @dsl.pipeline(  # type: ignore[untyped-decorator]
        name="rlvr",
        description="Reinforcement learning with verifiable rewards, from data to report.",
    )
    def rlvr(
        recipe: dict[str, Any] = {"extends": "gsm8k"},  # noqa: B006  (KFP copies it)
        recipe_overrides: dict[str, Any] = {},  # noqa: B006
        model_name: str = "",
        model_revision: str = "",
        evaluation_shots: list[int] = [],  # noqa: B006
        job_place: str = "pytorchjob",
        job_namespace: str = "",
        job_num_nodes: int = 0,
        job_gpus_per_node: int = -1,
        job_queue: str = "",
        job_node_selector: dict[str, str] = {},  # noqa: B006
        job_tolerations: list[dict[str, str]] = [],  # noqa: B006
        job_platform: str = "",
        job_sagemaker: str = "",
        storage_uri: str = "",
        train_reuse: bool = False,
        publish_uri: str = "",
        publish_merge: bool = False,
    ) -> None:
        """Prepare data, then evaluate the base model and train, evaluate again, compare.

        Args:
            recipe: The recipe; {"extends": "gsm8k"} is a shipped one.
            recipe_overrides: Fields to change: {"training.max_steps": 100}.
            model_name: The model to train; empty: the recipe's.
            model_revision: The commit of a model on the hub.
            evaluation_shots: Numbers of shots to evaluate at, [0, 8]; empty: the recipe's.
            job_place: The backend of the model steps: pytorchjob, trainjob, sagemaker, local (their
                own pods).
            job_namespace: The namespace of their jobs; empty: the pipeline's.
            job_num_nodes: Pods that train together; 0: the platform's setting.
            job_gpus_per_node: GPUs of each pod, 0: a CPU; -1: the platform's setting.
            job_queue: Kueue's local queue; empty: the platform's setting.
            job_node_selector: Labels that a job's nodes must have, in addition to the platform's.
            job_tolerations: Taints that a job's pods tolerate, in addition to the platform's.
            job_platform: Other settings of the platform, as JSON or YAML; they override the
                ConfigMap rlvr-platform of the namespace.
            job_sagemaker: Settings of SageMaker for job_place sagemaker, as JSON or YAML:
                role_arn, image, instance_type, instance_count, max_runtime_s, keep_alive_s, spot.
            storage_uri: Where jobs keep run directories: s3://bucket/prefix, or a path on a
                volume of all pods; empty: beside this pipeline's artifacts.
            train_reuse: Reuse the adapter of an earlier run of the same recipe, data and image.
            publish_uri: Where to publish a significantly better model; empty: nowhere.
            publish_merge: Publish the merged model, not the adapter alone.
        """
        finished = components.finish(storage_uri=storage_uri)
        on_kubernetes(finished, "Finish", timeout_s=HOUR_S)
        finished.set_caching_options(False)
        with dsl.ExitHandler(finished, name="Run"):
            checked = components.check(
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
                storage_uri=storage_uri,
                train_reuse=train_reuse,
                publish_uri=publish_uri,
            )
            on_kubernetes(checked, "Check", timeout_s=HOUR_S)
            checked.set_caching_options(False)  # what it checks may have changed
            whole = checked.outputs["resolved_recipe"]
            launched = {
                "place": job_place,
                "storage": checked.outputs["storage"],
                "job_image": checked.outputs["job_image"],
            }

            prepared = components.prepare_data(
                recipe=checked.outputs["data_recipe"], identity=checked.outputs["data_identity"]
            )
            on_kubernetes(prepared, "Prepare data", timeout_s=12 * HOUR_S)
            data = prepared.outputs["data"]

            base = components.evaluate_base(
                recipe=checked.outputs["base_recipe"], data=data, **launched
            )
            launches(base, "Evaluate base model")

            trained = components.train(
                recipe=whole, data=data, reuse_key=checked.outputs["reuse_key"], **launched
            )
            launches(trained, "Train")

            evaluated = components.evaluate_trained(
                recipe=whole, data=data, adapter=trained.outputs["adapter"], **launched
            )
            launches(evaluated, "Evaluate trained model")

            compared = components.compare_and_report(
                recipe=whole,
                data=data,
                before=base.outputs["samples"],
                after=evaluated.outputs["samples"],
                history=trained.outputs["history"],
            )
            on_kubernetes(compared, "Compare and report", timeout_s=12 * HOUR_S)
            compared.set_caching_options(False)

            # no condition: KFP shows a group whose condition was not met as running, for ever
            published = components.publish(
                recipe=whole,
                uri=publish_uri,
                merge=publish_merge,
                is_better=compared.outputs["Output"],
                model=evaluated.outputs["model"],
                evaluation=compared.outputs["evaluation"],
            )
            on_kubernetes(published, "Publish", timeout_s=12 * HOUR_S)
            published.set_caching_options(False)

    return rlvr


rlvr_pipeline = build()
"""The pipeline on the images of this package."""
