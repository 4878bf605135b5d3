"""Whether the launcher may do all that a job will need, asked before the job holds any GPU."""

from __future__ import annotations

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
        f"{verb} {resource}" + (f"/{sub}" if sub else "")
        for group, resource, sub, verb in (
            (kind.group, kind.plural, "", "create"),
            (kind.group, kind.plural, "", "watch"),
            (kind.group, kind.plural, "", "delete"),
            ("", "pods", "", "watch"),
            ("", "events", "", "watch"),
            ("", "pods", "log", "get"),
        )
        if not _may(client, namespace, group, resource, sub, verb)
    ]
    if missing:
        raise ConfigError(
            f"{client.access.origin} may not {', '.join(missing)} in {namespace}; bind the Role "
            f"rlvr-launcher there ({ROLE})"
        )


def _may(client: Client, namespace: str, group: str, resource: str, sub: str, verb: str) -> bool:
    attributes = {
        "namespace": namespace,
        "group": group,
        "resource": resource,
        "subresource": sub,
        "verb": verb,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = client.request("POST", REVIEWS, body=review)
    return bool(answer.get("status", {}).get("allowed"))
