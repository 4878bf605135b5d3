"""The kinds of job that a cluster can run: how they differ, and what they need. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from rlvr_components.jobs import JobSpec, pytorchjob, trainjob
from rlvr_components.jobs.pods import SPEC_HASH_ANNOTATION
from rlvr_components.jobs.pytorchjob import render_pytorchjob
from rlvr_components.jobs.trainjob import (
    NEWEST_OVERRIDES,
    OverridesField,
    overrides_field,
    render_trainjob,
)
from rlvr_components.kubernetes.api_errors import ObjectNotFound
from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError

Object = Mapping[str, Any]
"""A Kubernetes object as parsed JSON."""
Place = Literal["pytorchjob", "trainjob"]
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Api(Protocol):
    """The requests that checks need; `KubernetesApi` has them."""

    def get(self, path: str) -> dict[str, Any]:
        """Return an object. Raises ObjectNotFound, ConfigError, PlatformError."""

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object. Raises ConfigError, PlatformError."""

    def try_to_create(self, path: str, body: Mapping[str, Any]) -> None:
        """Check that the object would be accepted. Raises ConfigError, PlatformError."""


@dataclass(frozen=True)
class Kind:
    """A custom resource that runs a job."""

    place: Place
    name: str
    api_version: str
    plural: str
    container: str
    """Name of the container that trains."""
    job_label: str
    """Label of pods with the job's name."""
    replica_labels: tuple[str, str]
    """Labels of pods with the replica's type and its index."""
    succeeded: str
    """Type of the condition of a job that succeeded."""
    replaces_pods: bool
    """The operator replaces failed pods; otherwise the job fails once its pods have terminated."""
    needs: str
    """Name of the operator to install."""

    @property
    def group(self) -> str:
        """Return the API group."""
        return self.api_version.partition("/")[0]

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of a namespace's objects, or of one of them."""
        return f"/apis/{self.api_version}/namespaces/{namespace}/{self.plural}" + (
            f"/{name}" if name else ""
        )

    def num_replicas(self, job: Object) -> int:
        """Return how many pods the job asks for."""
        spec = job.get("spec", {})
        if self.place == "trainjob":
            return int(spec.get("trainer", {}).get("numNodes") or 1)
        replicas = spec.get("pytorchReplicaSpecs", {}).values()
        return sum(int(each.get("replicas", 1)) for each in replicas)

    def is_suspended(self, job: Object) -> bool:
        """Return whether the job is suspended, by Kueue as a rule."""
        spec = job.get("spec", {})
        holder = spec if self.place == "trainjob" else spec.get("runPolicy", {})
        return bool(holder.get("suspend"))

    def replica_name(self, pod: Object) -> str:
        """Return `master-0`, `worker-1`, `node-3`; the pod's name where it lacks the labels."""
        labels = pod["metadata"].get("labels", {})
        kind, index = (labels.get(label) for label in self.replica_labels)
        return f"{kind}-{index}" if kind and index is not None else str(pod["metadata"]["name"])


PYTORCHJOB = Kind(
    place="pytorchjob",
    name="PyTorchJob",
    api_version="kubeflow.org/v1",
    plural="pytorchjobs",
    container=pytorchjob.CONTAINER,
    job_label="training.kubeflow.org/job-name",
    replica_labels=("training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"),
    succeeded="Succeeded",
    replaces_pods=True,
    needs="the Kubeflow training operator",
)
TRAINJOB = Kind(
    place="trainjob",
    name="TrainJob",
    api_version="trainer.kubeflow.org/v1alpha1",
    plural="trainjobs",
    container=trainjob.CONTAINER,
    job_label="jobset.sigs.k8s.io/jobset-name",
    replica_labels=(
        "jobset.sigs.k8s.io/replicatedjob-name",
        "batch.kubernetes.io/job-completion-index",
    ),
    succeeded="Complete",
    replaces_pods=False,
    needs="Kubeflow Trainer",
)
KINDS: Mapping[Place, Kind] = {each.place: each for each in (PYTORCHJOB, TRAINJOB)}


def kind_of(place: str) -> Kind:
    """Return the kind of job of this name. Raises ConfigError."""
    for kind in KINDS.values():
        if kind.place == place:
            return kind
    raise ConfigError(
        f"a job in a cluster must be one of {', '.join(KINDS)} (got {place!r}); choose one"
    )


def condition(job: Object, type_: str) -> Object | None:
    """Return the condition of that type when its status is True."""
    for each in job.get("status", {}).get("conditions") or ():
        if each.get("type") == type_ and each.get("status") == "True":
            found: Object = each
            return found
    return None


def render_job(
    place: Place, spec: JobSpec, platform: Platform, overrides: OverridesField
) -> dict[str, Any]:
    """Render the object with a hash of itself; `overrides` is the TrainJob's field to use.

    Raises ConfigError for what the API server would refuse.
    """
    if place == "trainjob":
        rendered = render_trainjob(spec, platform, overrides)
    else:
        rendered = render_pytorchjob(spec, platform)
    canonical = json.dumps(rendered, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    rendered["metadata"]["annotations"][SPEC_HASH_ANNOTATION] = digest
    return rendered


def known_overrides(api: Api, kind: Kind) -> OverridesField:
    """Return the TrainJob's field that the API server knows; asks nothing for other kinds.

    Raises ConfigError, PlatformError.
    """
    if kind.place != "trainjob":
        return NEWEST_OVERRIDES
    try:
        return overrides_field(api.get(f"/openapi/v3/apis/{kind.api_version}"))
    except ObjectNotFound:
        raise ConfigError(
            f"the cluster knows no {kind.plural}.{kind.group}; install {kind.needs} 2, or take "
            "--on pytorchjob"
        ) from None


def missing_rights(api: Api, kind: Kind, namespace: str) -> list[str]:
    """Return what the caller may not do, of all that launching and following a job needs.

    Raises ConfigError, PlatformError.
    """
    reviews = ((right, api.create(REVIEWS, right.review(namespace))) for right in _rights(kind))
    return [
        str(right) for right, answer in reviews if not (answer.get("status") or {}).get("allowed")
    ]


@dataclass(frozen=True)
class _Right:
    """A verb on a resource."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f"/{self.subresource}" if self.subresource else "")

    def review(self, namespace: str) -> dict[str, Any]:
        """Return the object to create, whose status says whether the caller has the right."""
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"namespace": namespace, **asdict(self)}},
        }


def _rights(kind: Kind) -> tuple[_Right, ...]:
    return (
        *(_Right(verb, kind.group, kind.plural) for verb in ("create", "watch", "patch", "delete")),
        _Right("watch", "", "pods"),
        _Right("watch", "", "events"),
        _Right("get", "", "pods", "log"),
    )
