"""Run a model step as a job in a cluster: stage its inputs, launch it, collect its results.

RUN/                     recipe, data, checkpoints, metrics: the training's run directory
RUN/evaluate-base/KEY/       recipe part, data, samples by part
RUN/evaluate-trained/KEY/    recipe, data, samples by part; the adapter where RUN has none

KEY identifies what is evaluated: other settings, rows or files have another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rlvr_components.jobs import Backend, JobSpec, Step
from rlvr_components.jobs.pods import cluster_job, launch_command
from rlvr_components.pipeline_run import (
    LaunchSettings,
    in_kubeflow,
    owner_of_jobs,
    read_settings,
    record_launch,
    run_folder,
    run_id,
)
from rlvr_components.platform.settings import Platform
from rlvr_components.sagemaker import training_request
from rlvr_components.sagemaker.sagemaker_settings import SageMaker
from rlvr_components.steps.staging import file_hashes, stage, stage_folder
from rlvr_components.steps.task_config import merge_task_config, merge_task_environment
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.outcome import headline, parse_samples
from rlvr_trainer.evaluation.shards import Shard, batches, evaluated_rows, join
from rlvr_trainer.phases import EVALUATION_LABELS
from rlvr_trainer.recipe.batch import batch_of
from rlvr_trainer.recipe.named_files import file_digests
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import phase_events, read_events
from rlvr_trainer.run_dir.layout import ADAPTER
from rlvr_trainer.storage import S3_SCHEME, Storage, open_storage
from rlvr_trainer.variables import ADAPTER_URI_VARIABLE, EVENTS_VARIABLE

COPIED = ("step", "evaluation", "checkpoint")
"""Events of a job's progress; its launcher emits those of its start and end."""

EvaluateStep = Literal["evaluate-base", "evaluate-trained"]


@dataclass(frozen=True)
class Site:
    """The run's folder, and the settings with which its jobs are launched."""

    folder: str
    settings: LaunchSettings

    def adapter_uri(self, artifact_uri: str) -> str:
        """Return the artifact's URI if pods write and read the adapter there, else ""."""
        direct = self.settings.writes_artifacts and artifact_uri.startswith(S3_SCHEME)
        return artifact_uri if direct else ""


def open_site(storage_uri: str, task_config: Any = None) -> Site:
    """Return the site of the check step's settings, with those of the KFP task on top.

    Raises ConfigError, PlatformError.
    """
    folder = run_folder(storage_uri)
    settings = read_settings(open_storage(folder))
    if settings is None:
        raise ConfigError(
            f"{folder} has no launch settings, which the step Check writes; start a new run"
        )
    if isinstance(settings.platform, SageMaker):
        return Site(
            folder,
            replace(settings, platform=merge_task_environment(settings.platform, task_config)),
        )
    platform = merge_task_config(settings.platform, task_config)
    return Site(folder, replace(settings, platform=platform))


def train_remotely(recipe: Recipe, data_dir: Path, site: Site, adapter_uri: str) -> Storage:
    """Train in the run's folder, and return it; the adapter goes to `adapter_uri` if that is given.

    Raises JobFailed, ConfigError, DataError, PlatformError.
    """
    batch_of(recipe, site.settings.platform.world_size)  # the task may request other GPUs
    run_dir = open_storage(site.folder)
    env = {ADAPTER_URI_VARIABLE: adapter_uri} if adapter_uri else {}
    with phase_events("train"):

        def prepare(job: JobSpec) -> JobSpec:
            stage(run_dir, recipe, data_dir)
            return job

        _launch(site, job_spec("train", recipe, run_dir.uri, site, env=env), prepare)
    adapter = open_storage(adapter_uri) if adapter_uri else run_dir
    if not adapter.list("" if adapter_uri else ADAPTER):
        raise _removed(f"{adapter_uri or site.folder} has no adapter", site)
    return run_dir


def evaluate_remotely(
    step: EvaluateStep,
    recipe: Recipe,
    data_dir: Path,
    site: Site,
    *,
    adapter_dir: Path | None = None,
    adapter_uri: str = "",
) -> list[dict[str, Any]]:
    """Evaluate on all nodes of a job in parallel; return the samples in order.

    Pods read the adapter at `adapter_uri`, by default a copy of `adapter_dir`.
    Raises JobFailed, ConfigError, DataError, PlatformError.
    """
    run_dir = open_storage(f"{site.folder}/{step}/{evaluation_key(recipe, data_dir)}")
    platform = site.settings.platform
    shards_per_node = max(platform.gpus_per_node, 1)
    with phase_events(step) as results:

        def prepare(job: JobSpec) -> JobSpec:
            stage(run_dir, recipe, data_dir)
            uri = adapter_uri
            if adapter_dir is not None and not uri:
                uri = _adapter_for_pods(site, run_dir, adapter_dir)
            command = (
                *("python", "-m", "rlvr_trainer", "evaluate"),
                *("--label", EVALUATION_LABELS[step]),
                *("--shards-per-node", str(shards_per_node)),
                *(("--adapter", uri) if uri else ()),
            )
            return replace(job, command=_launched(run_dir.uri, platform, command))

        _launch(site, job_spec(step, recipe, run_dir.uri, site), prepare)
        samples = collect_samples(
            run_dir, recipe, data_dir, platform.num_nodes * shards_per_node, site
        )
        results.update(headline(samples, recipe))
    return samples


def evaluation_key(recipe: Recipe, data_dir: Path) -> str:
    """Return twelve hex digits of the recipe, the rows, and the files that the recipe names."""
    content = [recipe.hash, file_hashes(data_dir), file_digests(recipe)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def collect_samples(
    run_dir: Storage, recipe: Recipe, data_dir: Path, num_shards: int, site: Site
) -> list[dict[str, Any]]:
    """Join the parts of an evaluation. Raises ConfigError, DataError, PlatformError."""
    parts = []
    for shard in Shard(0, num_shards).all:
        where = f"{run_dir.uri}/{shard.key}"
        try:
            parts.append(parse_samples(where, run_dir.read_bytes(shard.key).decode()))
        except FileNotFoundError:
            raise _removed(f"{where} does not exist", site) from None
    return join(parts, batches(recipe, evaluated_rows(recipe, data_dir)))


def _removed(what: str, site: Site) -> ConfigError:
    """Return the error for a job that has succeeded, which every retry would adopt."""
    name = run_id() if in_kubeflow() else site.settings.run_name
    return ConfigError(
        f"the job succeeded, but {what}: its results were removed; delete the job "
        f"(`rlvr clean {name}`) to have it run again, or start a run in another directory"
    )


def _adapter_for_pods(site: Site, run_dir: Storage, adapter_dir: Path) -> str:
    """Return the URI of this run's adapter, or of a copy of one that an earlier run trained."""
    trained = open_storage(site.folder)
    if trained.list(ADAPTER):
        return f"{trained.uri}/{ADAPTER}"
    stage_folder(run_dir, adapter_dir, ADAPTER)
    return f"{run_dir.uri}/{ADAPTER}"


def job_spec(
    step: Step,
    recipe: Recipe,
    run_dir: str,
    site: Site,
    *,
    env: dict[str, str] | None = None,
) -> JobSpec:
    """Return the job of a step with `run_dir` as its run directory."""
    settings, platform = site.settings, site.settings.platform
    if isinstance(platform, SageMaker):
        return training_request.sagemaker_job(
            recipe,
            platform,
            os.environ,
            run_name=settings.run_name,
            run_dir=run_dir,
            run_id=run_id(),
            step=step,
            env=env,
            is_automatic=in_kubeflow(),
        )
    return cluster_job(
        recipe,
        platform,
        os.environ,
        run_name=settings.run_name,
        run_dir=run_dir,
        run_id=run_id(),
        step=step,
        env=env,
        is_automatic=in_kubeflow(),
        owner=_owner(platform.namespace),
    )


def _launched(
    run_dir: str, platform: Platform | SageMaker, command: tuple[str, ...]
) -> tuple[str, ...]:
    if isinstance(platform, SageMaker):
        return training_request.launch_command(run_dir, platform, command)
    return launch_command(run_dir, platform, command)


def _owner(namespace: str) -> Any:
    if not in_kubeflow():
        return None
    from rlvr_components.kubernetes.client import KubernetesApi

    return owner_of_jobs(namespace, KubernetesApi().get)


def _launch(site: Site, spec: JobSpec, prepare: Callable[[JobSpec], JobSpec]) -> None:
    from rlvr_components.jobs.launching import launch
    from rlvr_components.own_workflow import run_ending

    events = os.environ.get(EVENTS_VARIABLE)
    on_event = EventCopy(Path(events)).add if events else None
    record_launch(open_storage(site.folder), is_launched=True)
    launch(_open_backend(site.settings, on_event), spec, prepare, is_run_ending=run_ending())


def _open_backend(
    settings: LaunchSettings, on_event: Callable[[Mapping[str, Any]], None] | None
) -> Backend:
    if isinstance(settings.platform, SageMaker):
        from rlvr_components.sagemaker.sagemaker_backend import SageMakerBackend

        return SageMakerBackend(settings.platform, on_event=on_event)
    from rlvr_components.jobs.cluster import open_backend

    assert settings.place in ("pytorchjob", "trainjob")
    return open_backend(settings.place, settings.platform, on_event=on_event)


class EventCopy:
    """Copies the events of jobs to the events file of the run on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {_line(event) for event in read_events(path)}

    def add(self, event: Mapping[str, Any]) -> None:
        """Append the event unless it is present, since an adopted job reports its events again."""
        line = _line(event)
        if event.get("event") in COPIED and line not in self._known:
            self._known.add(line)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(dict(event), sort_keys=True)
