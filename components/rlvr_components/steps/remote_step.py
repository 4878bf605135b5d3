"""A model step as a job in a cluster: put what it needs into its run directory, launch, collect.

RUN/                     recipe, data, checkpoints, metrics: the training's run directory
RUN/evaluate-base/KEY/       recipe part, data, samples by part
RUN/evaluate-trained/KEY/    recipe, data, samples by part; the adapter where RUN has none

KEY names what is evaluated, so that other settings, rows or files are evaluated apart.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rlvr_components.jobs import JobSpec, Step
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
from rlvr_components.steps.staging import file_hashes, stage, stage_folder
from rlvr_components.steps.task_config import merge_task_config
from rlvr_trainer.errors import ConfigError, RLVRError
from rlvr_trainer.evaluation.outcome import headline, parse_samples
from rlvr_trainer.evaluation.shards import Shard, batches, evaluated_rows, join
from rlvr_trainer.phases import EVALUATION_LABELS
from rlvr_trainer.recipe.batch import batch_of
from rlvr_trainer.recipe.named_files import file_digests
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.run_dir.events import emit, read_events
from rlvr_trainer.run_dir.layout import ADAPTER
from rlvr_trainer.storage import S3_SCHEME, Storage, open_storage
from rlvr_trainer.variables import ADAPTER_URI_VARIABLE, EVENTS_VARIABLE

COPIED = ("step", "evaluation", "checkpoint")
"""Events that tell how far a job is; when it began and ended, its launcher knows."""

EvaluateStep = Literal["evaluate-base", "evaluate-trained"]


@dataclass(frozen=True)
class Site:
    """Where the jobs of this run are launched, and where their files lie."""

    folder: str
    """The run's folder."""
    settings: LaunchSettings

    def adapter_uri(self, artifact_uri: str) -> str:
        """Where pods write and read the adapter, if that is the artifact itself; else empty."""
        direct = self.settings.writes_artifacts and artifact_uri.startswith(S3_SCHEME)
        return artifact_uri if direct else ""


def open_site(storage_uri: str, task_config: Any = None) -> Site:
    """The site that the check step settled, with what KFP was told of this task.

    Raises ConfigError, PlatformError.
    """
    folder = run_folder(storage_uri)
    settings = read_settings(open_storage(folder))
    if settings is None:
        raise ConfigError(
            f"{folder} holds no settings of a launch, which the step Check leaves there; start a "
            "new run"
        )
    platform = merge_task_config(settings.platform, task_config)
    return Site(folder, replace(settings, platform=platform))


def train(recipe: Recipe, data_dir: Path, site: Site, adapter_uri: str) -> Storage:
    """Train in the run's folder, and return it; the adapter goes to `adapter_uri`, or stays there.

    Raises JobFailed, ConfigError, DataError, PlatformError.
    """
    batch_of(recipe, site.settings.platform.world_size)  # the task may ask for other GPUs
    run_dir = open_storage(site.folder)
    env = {ADAPTER_URI_VARIABLE: adapter_uri} if adapter_uri else {}
    with phase("train"):

        def prepare(job: JobSpec) -> JobSpec:
            stage(run_dir, recipe, data_dir)
            return job

        _launch(site, job_spec("train", recipe, run_dir.uri, site, env=env), prepare)
    adapter = open_storage(adapter_uri) if adapter_uri else run_dir
    if not adapter.list("" if adapter_uri else ADAPTER):
        raise _removed(f"no adapter is in {adapter_uri or site.folder}", site)
    return run_dir


def evaluate(
    step: EvaluateStep,
    recipe: Recipe,
    data_dir: Path,
    site: Site,
    *,
    adapter_dir: Path | None = None,
    adapter_uri: str = "",
) -> list[dict[str, Any]]:
    """Evaluate with the job's nodes side by side; the samples of one evaluation, in order.

    Pods read the adapter at `adapter_uri`, or else what is copied there from `adapter_dir`.
    Raises JobFailed, ConfigError, DataError, PlatformError.
    """
    run_dir = open_storage(f"{site.folder}/{step}/{evaluation_key(recipe, data_dir)}")
    platform = site.settings.platform
    shards_per_node = max(platform.gpus_per_node, 1)
    with phase(step) as found:

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
            return replace(job, command=launch_command(run_dir.uri, platform, command))

        _launch(site, job_spec(step, recipe, run_dir.uri, site), prepare)
        samples = collect_samples(
            run_dir, recipe, data_dir, platform.num_nodes * shards_per_node, site
        )
        found.update(headline(samples, recipe))
    return samples


def evaluation_key(recipe: Recipe, data_dir: Path) -> str:
    """Return twelve hex digits of the recipe, the rows, and the files that the recipe names."""
    content = [recipe.hash, file_hashes(data_dir), file_digests(recipe)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def collect_samples(
    run_dir: Storage, recipe: Recipe, data_dir: Path, num_shards: int, site: Site
) -> list[dict[str, Any]]:
    """The parts of an evaluation as one. Raises ConfigError, DataError, PlatformError."""
    parts = []
    for shard in Shard(0, num_shards).all:
        where = f"{run_dir.uri}/{shard.key}"
        try:
            parts.append(parse_samples(where, run_dir.read_bytes(shard.key).decode()))
        except FileNotFoundError:
            raise _removed(f"{where} is not there", site) from None
    return join(parts, batches(recipe, evaluated_rows(recipe, data_dir)))


def _removed(what: str, site: Site) -> ConfigError:
    """For a job that has succeeded, which every further try adopts: none of them helps."""
    name = run_id() if in_kubeflow() else site.settings.run_name
    return ConfigError(
        f"the job succeeded, but {what}: its results were removed; delete the job "
        f"(`rlvr clean {name}`) to have it run again, or start a run in another directory"
    )


def _adapter_for_pods(site: Site, run_dir: Storage, adapter_dir: Path) -> str:
    """Where this run's training left it, or a copy of one that an earlier run trained."""
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
    """Return the job that trains in `run_dir`, under the name of a step."""
    settings, platform = site.settings, site.settings.platform
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


def _owner(namespace: str) -> Any:
    if not in_kubeflow():
        return None
    from rlvr_components.kubernetes.client import KubernetesApi

    return owner_of_jobs(namespace, KubernetesApi().get)


def _launch(site: Site, spec: JobSpec, prepare: Callable[[JobSpec], JobSpec]) -> None:
    from rlvr_components.jobs.cluster import open_backend
    from rlvr_components.jobs.launching import launch

    place, events = site.settings.place, os.environ.get(EVENTS_VARIABLE)
    assert place != "local"
    tell = EventCopy(Path(events)).add if events else None
    record_launch(open_storage(site.folder), is_launched=True)
    launch(open_backend(place, site.settings.platform, on_event=tell), spec, prepare)


@contextmanager
def phase(name: str) -> Iterator[dict[str, Any]]:
    """Events at the start and the end of a step that runs elsewhere, with what it found."""
    found: dict[str, Any] = {}
    emit("phase", phase=name, state="started")
    try:
        yield found
    except BaseException as error:
        with suppress(RLVRError):  # a disk that is full may well be the cause
            emit("phase", phase=name, state="failed", message=str(error))
        raise
    emit("phase", phase=name, state="finished", **found)


class EventCopy:
    """What jobs tell of themselves, in the file of events of the run on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = {_line(event) for event in read_events(path)}

    def add(self, event: Mapping[str, Any]) -> None:
        """Append it, unless it is there already: a job that is adopted tells all of it again."""
        line = _line(event)
        if event.get("event") in COPIED and line not in self._known:
            self._known.add(line)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(dict(event), sort_keys=True)
