"""Whether the launcher may do all that a job will need, asked before the job holds any GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rlvr_components.jobs.kube.client import Client
from rlvr_components.jobs.kube.errors import ROLE, Refusal
from rlvr_components.jobs.kube.kinds import Kind
from rlvr_trainer.errors import ConfigError

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def check_permissions(client: Client, kind: Kind, namespace: str) -> None:
    """Raises ConfigError when the kind is not installed or a verb is missing, PlatformError."""
    core = f"/api/v1/namespaces/{namespace}"
    try:
        client.get(kind.path(namespace), {"limit": 1})
    except Refusal as error:
        if error.status != 404:
            raise
        raise ConfigError(
            f"the cluster knows no {kind.name} ({kind.api_version}); install {kind.needs}, see "
            "manifests/README.md"
        ) from None
    for plural in ("pods", "events"):
        client.get(f"{core}/{plural}", {"limit": 1})
    missing = [
        str(right)
        for right in needed_rights(kind)
        if not is_allowed(client.request("POST", REVIEWS, body=right.review(namespace)))
    ]
    if missing:
        raise ConfigError(
            f"{client.access.origin} may not {', '.join(missing)} in {namespace}; bind the Role "
            f"rlvr-launcher there ({ROLE})"
        )


@dataclass(frozen=True)
class Right:
    """A verb on a resource."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f"/{self.subresource}" if self.subresource else "")

    def review(self, namespace: str) -> dict[str, Any]:
        """The question whether whoever asks has it."""
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"namespace": namespace, **asdict(self)}},
        }


def needed_rights(kind: Kind) -> tuple[Right, ...]:
    """What a launcher does with jobs of this kind, from creating one to reading its logs."""
    return (
        *(Right(verb, kind.group, kind.plural) for verb in ("create", "watch", "patch", "delete")),
        Right("watch", "", "pods"),
        Right("watch", "", "events"),
        Right("get", "", "pods", "log"),
    )


def is_allowed(answer: Mapping[str, Any]) -> bool:
    """What the API server said to a review."""
    return bool(answer.get("status", {}).get("allowed"))
