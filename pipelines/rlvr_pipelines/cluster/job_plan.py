"""Plan the job that a run in a cluster would submit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_components.jobs import JobSpec, kinds
from rlvr_components.jobs.kinds import ClusterPlace, kind_of, render_job
from rlvr_components.jobs.pods import cluster_job
from rlvr_components.jobs.trainjob import NEWEST_OVERRIDES, OverridesField
from rlvr_components.kubernetes.access import has_cluster
from rlvr_components.platform.settings import Platform
from rlvr_components.preflight.cluster_checks import read_platform_map
from rlvr_components.preflight.form import PLATFORM_MAP, Form, resolve_platform
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.layout import RunDir

IMAGE = re.compile(r"""(^|[{,\s])["']?image["']?\s*:""", re.M)


@dataclass(frozen=True)
class ClusterJob:
    """A planned job: its settings, its spec and the rendered object or request."""

    platform: Platform | SageMaker
    spec: JobSpec
    manifest: dict[str, Any]

    @property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return self.platform.world_size


def plan_job(
    recipe: Recipe,
    place: ClusterPlace,
    platform: Platform,
    *,
    storage: str,
    run_id: str,
    overrides: OverridesField = NEWEST_OVERRIDES,
    environment: Mapping[str, str] = os.environ,
) -> ClusterJob:
    """Render the training job of a run with this id. Pure, except for the default environment.

    Raises ConfigError for a job that the API server would refuse.
    """
    run_dir = f"{storage.rstrip('/')}/{run_id}"
    spec = cluster_job(
        recipe, platform, environment, run_name=recipe.name, run_dir=run_dir, run_id=run_id
    )
    return ClusterJob(platform, spec, render_job(place, spec, platform, overrides))


def run_id_of(recipe: Recipe, run_dir: Path) -> str:
    """Return the id of the run in a cluster; one of zeros if it was not started yet."""
    file = RunDir(run_dir).remote_id
    return file.read_text("utf-8").strip() if file.is_file() else f"{recipe.name}-{'0' * 12}"


def platform_of(form: Form) -> Platform:
    """Merge the form's settings into the namespace's ConfigMap, if a cluster is configured.

    Raises ConfigError if neither names an image; PlatformError.
    """
    config_map, namespace, where = "", form.job_namespace, "no cluster is configured"
    if has_cluster():
        from rlvr_components.kubernetes.client import KubernetesApi

        api = KubernetesApi()
        namespace = namespace or api.namespace
        config_map = read_platform_map(api, namespace)
        where = f"namespace {namespace} has no ConfigMap {PLATFORM_MAP} that names one"
    if not IMAGE.search(f"{config_map}\n{form.job_platform}"):
        raise ConfigError(
            f"the jobs have no image: {where}, and none is given; name the --namespace of our "
            "manifests, or give --platform-set image=NAME@sha256:…"
        )
    platform = resolve_platform(form, config_map)
    return platform.model_copy(update={"namespace": platform.namespace or namespace})


def known_overrides(place: ClusterPlace) -> OverridesField:
    """Return the field for overrides of the cluster's TrainJob; without a cluster, the newest.

    Raises ConfigError, PlatformError.
    """
    if place != "trainjob" or not has_cluster():
        return NEWEST_OVERRIDES
    from rlvr_components.kubernetes.client import KubernetesApi

    return kinds.known_overrides(KubernetesApi(), kind_of(place))
