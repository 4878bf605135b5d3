"""The kinds of job that a cluster can run, and what they need from the cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, cast

from rlvr_components.jobs import pytorchjob, trainjob
from rlvr_components.jobs.job import JobSpec
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
ClusterPlace = Literal["pytorchjob", "trainjob"]
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

    place: ClusterPlace
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
    """The operator to install."""

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
        """Return the number of pods that the job asks for."""
        spec = job.get("spec", {})
        if self.place == "trainjob":
            return int(spec.get("trainer", {}).get("numNodes") or 1)
        replicas = spec.get("pytorchReplicaSpecs", {}).values()
        return sum(int(replica.get("replicas", 1)) for replica in replicas)

    def is_suspended(self, job: Object) -> bool:
        """Return True if the job is suspended, as a rule by Kueue."""
        spec = job.get("spec", {})
        holder = spec if self.place == "trainjob" else spec.get("runPolicy", {})
        return bool(holder.get("suspend"))

    def replica_name(self, pod: Object) -> str:
        """Return `master-0`, `worker-1` or `node-3`; the pod's name if it lacks the labels."""
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
    needs="the Kubeflow training operator (manifests/operator)",
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
    needs="Kubeflow Trainer 2",
)
KINDS: Mapping[ClusterPlace, Kind] = {kind.place: kind for kind in (PYTORCHJOB, TRAINJOB)}


def kind_of(place: str) -> Kind:
    """Return the kind of job of this name. Raises ConfigError."""
    if place in KINDS:
        return KINDS[cast(ClusterPlace, place)]
    raise ConfigError(
        f"a job in a cluster must be one of {', '.join(KINDS)} (got {place!r}); choose one"
    )


def condition(job: Object, type_: str) -> Object | None:
    """Return the condition of that type if its status is True."""
    for entry in job.get("status", {}).get("conditions") or ():
        if entry.get("type") == type_ and entry.get("status") == "True":
            return cast(Object, entry)
    return None


def render_job(
    place: ClusterPlace, spec: JobSpec, platform: Platform, overrides: OverridesField
) -> dict[str, Any]:
    """Render the object with a hash of itself. Pure. `overrides` is the TrainJob's field to use.

    Raises ConfigError if the API server would refuse the object.
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
    """Return the TrainJob's field that the API server knows; sends no request for other kinds.

    Raises ConfigError, PlatformError.
    """
    if kind.place != "trainjob":
        return NEWEST_OVERRIDES
    try:
        return overrides_field(api.get(f"/openapi/v3/apis/{kind.api_version}"))
    except ObjectNotFound:
        raise not_installed(kind) from None


def not_installed(*kinds: Kind) -> ConfigError:
    """Return the error for a cluster that has none of these kinds."""
    names = " or ".join(f"{kind.plural}.{kind.group}" for kind in kinds)
    needs = " or ".join(kind.needs for kind in kinds)
    others = [kind.place for kind in KINDS.values() if kind not in kinds]
    advice = f", or choose {' or '.join(others)}" if others else ""
    return ConfigError(f"the cluster does not have {names}; install {needs}{advice}")


def missing_rights(api: Api, kind: Kind, namespace: str) -> list[str]:
    """Return the rights that launching and following a job needs and the caller lacks.

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
        """Return the object to create; its status says if the caller has the right."""
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
