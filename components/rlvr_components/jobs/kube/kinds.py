"""What differs between the kinds of job that a cluster can run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlvr_components.jobs import pytorchjob, trainjob
from rlvr_trainer.errors import ConfigError

Object = Mapping[str, Any]
"""A Kubernetes object, as JSON has it."""
Place = Literal["pytorchjob", "trainjob"]


@dataclass(frozen=True)
class Kind:
    """A custom resource that runs a job."""

    place: Place
    name: str
    api_version: str
    plural: str
    container: str
    """The one that trains."""
    job_label: str
    """On pods: the job's name."""
    replica_labels: tuple[str, str]
    """On pods: the replica's type and its index."""
    succeeded: str
    """The condition that says so."""
    replaces_pods: bool
    """Its operator starts a pod that failed again; else the job fails once its pods have ended."""
    needs: str
    """What has to be installed for it."""

    @property
    def group(self) -> str:
        """The API group."""
        return self.api_version.partition("/")[0]

    def path(self, namespace: str, name: str = "") -> str:
        """Of the objects of a namespace, or of one of them."""
        return f"/apis/{self.api_version}/namespaces/{namespace}/{self.plural}" + (
            f"/{name}" if name else ""
        )

    def num_replicas(self, job: Object) -> int:
        """Pods that the job asks for."""
        spec = job.get("spec", {})
        if self.place == "trainjob":
            return int(spec.get("trainer", {}).get("numNodes") or 1)
        replicas = spec.get("pytorchReplicaSpecs", {}).values()
        return sum(int(each.get("replicas", 1)) for each in replicas)

    def is_suspended(self, job: Object) -> bool:
        """Whether something, Kueue as a rule, holds it back."""
        spec = job.get("spec", {})
        holder = spec if self.place == "trainjob" else spec.get("runPolicy", {})
        return bool(holder.get("suspend"))

    def replica_name(self, pod: Object) -> str:
        """`master-0`, `worker-1`, `node-3`; the pod's own name where it has no such labels."""
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
    """The kind of job at this place. Raises ConfigError."""
    for kind in KINDS.values():
        if kind.place == place:
            return kind
    raise ConfigError(f"{place!r} is no kind of job in a cluster; choose {', '.join(KINDS)}")


def condition(job: Object, type_: str) -> Object | None:
    """The condition of that type, where it holds."""
    for each in job.get("status", {}).get("conditions") or ():
        if each.get("type") == type_ and each.get("status") == "True":
            found: Object = each
            return found
    return None
