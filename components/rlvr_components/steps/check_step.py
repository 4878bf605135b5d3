"""Check everything that can fail before a GPU is requested."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlvr_components.pipeline_run import (
    LaunchSettings,
    Place,
    default_storage,
    run_folder,
    run_id,
    write_settings,
)
from rlvr_components.preflight.form import (
    Form,
    can_write,
    check_storage,
    place_of,
    resolve_platform,
    resolve_recipe,
    resolve_sagemaker,
)
from rlvr_components.steps.staging import check_continues_there
from rlvr_trainer.data.identity import files_identity
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.outcome import count
from rlvr_trainer.grpo.trl_refusals import check_trl_options
from rlvr_trainer.launch.operator_environment import num_gpus
from rlvr_trainer.recipe.batch import batch_of
from rlvr_trainer.recipe.parts import recipe_part
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.reward_check import reward_remarks
from rlvr_trainer.run_dir.events import emit
from rlvr_trainer.storage import S3_SCHEME, open_storage
from rlvr_trainer.tables import Table, markdown


@dataclass(frozen=True)
class Checked:
    """The outputs of the check step."""

    recipe: Recipe
    data_recipe: Recipe
    base_recipe: Recipe
    data_identity: str
    storage: str
    """Storage that holds the run's folder; empty for a local run without one."""
    job_image: str
    """Image of the jobs; empty if model steps run in their own pods."""
    reuse_key: str
    """A training is reused only if its key is the same."""
    plan: str
    """Markdown for the UI."""

    def write(self, **paths: str) -> None:
        """Write the outputs of these names, as text, to their files."""
        for name, path in paths.items():
            value = getattr(self, name)
            text = value.model_dump_json() if isinstance(value, Recipe) else value
            Path(path).write_text(text, encoding="utf-8")


def check(
    form: Form,
    *,
    storage_uri: str = "",
    publish_uri: str = "",
    train_reuse: bool = False,
    artifact_uri: str = "",
) -> Checked:
    """Resolve the form, and check the storage, the cluster, the job and the rewards.

    `artifact_uri` is that of any artifact of this pipeline run. Raises ConfigError, DataError,
    PlatformError.
    """
    recipe, place = resolve_recipe(form), place_of(form)
    if place == "local":
        check_trl_options(recipe, max(num_gpus(), 1), is_here=True)
        storage, settings, remarks = _check_local(storage_uri), None, list[str]()
    else:
        storage = storage_uri or default_storage(artifact_uri)
        settings, remarks = _check_remote(form, recipe, place, storage, artifact_uri)
    if publish_uri:
        check_storage(publish_uri)
    remarks += reward_remarks(recipe)
    for remark in remarks:
        emit("remark", message=remark)
    return Checked(
        recipe=recipe,
        data_recipe=recipe_part(recipe, "prepare"),
        base_recipe=recipe_part(recipe, "evaluate-base"),
        data_identity=files_identity(recipe),
        storage=storage,
        job_image=settings.platform.image if settings else "",
        reuse_key="" if train_reuse else run_id(),
        plan=_describe(recipe, settings, storage, remarks),
    )


def _check_local(storage_uri: str) -> str:
    if "://" in storage_uri:
        raise ConfigError(
            f"storage_uri: {storage_uri!r} is not a path, and job_place 'local' trains on this "
            "disk; name a path, or choose pytorchjob or trainjob"
        )
    if storage_uri:
        check_storage(run_folder(storage_uri))
    return storage_uri


def _check_remote(
    form: Form, recipe: Recipe, place: Place, storage: str, artifact_uri: str
) -> tuple[LaunchSettings, list[str]]:
    if place == "sagemaker":
        return _check_sagemaker(form, recipe, storage, artifact_uri), []
    from rlvr_components.jobs.cluster import open_backend
    from rlvr_components.kubernetes.client import KubernetesApi
    from rlvr_components.preflight.cluster_checks import (
        check_admitted,
        check_cluster,
        read_platform_map,
    )
    from rlvr_components.steps.remote_step import Site, job_spec

    api = KubernetesApi()
    config_map = read_platform_map(api, form.job_namespace or api.namespace)
    platform = resolve_platform(form, config_map)
    batch_of(recipe, platform.world_size)
    check_trl_options(recipe, platform.world_size, is_here=False)
    namespace = platform.namespace or api.namespace
    remarks = check_cluster(api, place, platform, namespace)
    folder = run_folder(storage)
    _check_folder(folder, recipe)
    settings = LaunchSettings(place, recipe.name, platform, _writes_to(artifact_uri))
    assert place != "local"
    job = job_spec("train", recipe, folder, Site(folder, settings))
    check_admitted(api, place, open_backend(place, platform).render(job), namespace)
    write_settings(open_storage(folder), settings)
    return settings, remarks


def _check_sagemaker(form: Form, recipe: Recipe, storage: str, artifact_uri: str) -> LaunchSettings:
    from rlvr_components.preflight.sagemaker_checks import check_sagemaker
    from rlvr_components.sagemaker.sagemaker_backend import SageMakerBackend
    from rlvr_components.steps.remote_step import Site, job_spec

    chosen = resolve_sagemaker(form)
    batch_of(recipe, chosen.world_size)
    folder = run_folder(storage)
    settings = LaunchSettings("sagemaker", recipe.name, chosen, _writes_to(artifact_uri))
    SageMakerBackend(chosen).render(job_spec("train", recipe, folder, Site(folder, settings)))
    check_sagemaker(chosen, folder)
    _check_folder(folder, recipe)
    write_settings(open_storage(folder), settings)
    return settings


def _check_folder(folder: str, recipe: Recipe) -> None:
    check_storage(folder)
    check_continues_there(open_storage(folder), recipe)


def _writes_to(artifact_uri: str) -> bool:
    """Return True if jobs may write to the pipeline's artifacts themselves."""
    return artifact_uri.startswith(S3_SCHEME) and can_write(artifact_uri.rpartition("/")[0])


def _describe(
    recipe: Recipe, settings: LaunchSettings | None, storage: str, remarks: list[str]
) -> str:
    facts = [("Recipe", f"`{recipe.name}`, hash `{recipe.hash}`"), ("Model", recipe.model.name)]
    if settings:
        platform = settings.platform
        gpus = count(platform.gpus_per_node, "GPU") if platform.gpus_per_node else "no GPU"
        facts += [
            ("Jobs", f"{settings.place}, {count(platform.num_nodes, 'node')} with {gpus} each"),
            ("Image", f"`{platform.image}`"),
            ("Run directory", f"`{run_folder(storage)}`"),
        ]
    table = markdown(Table(("", ""), facts))
    notes = "".join(f"**Note.** {remark}\n" for remark in remarks)
    return f"# {recipe.name}\n\n{recipe.description}\n\n{table}\n\n{notes}"
