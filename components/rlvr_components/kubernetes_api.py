"""The few calls that a step makes to the API server besides those about its job.

Paths as `kubectl get --raw` takes them, plain dicts back.
"""

from __future__ import annotations

from typing import Any

from rlvr_components.jobs.kube.access import find_access
from rlvr_components.jobs.kube.client import PATIENCE_S, Client
from rlvr_components.jobs.kube.errors import Refusal
from rlvr_trainer.errors import ConfigError

ALREADY_EXISTS = 409


class NotFound(ConfigError):
    """There is no such object, or no such kind."""


class KubernetesApi:
    """The API server that the kubeconfig, or the pod's service account, leads to."""

    def __init__(self) -> None:
        access = find_access()
        self.namespace = access.namespace
        """The context's, or this pod's."""
        self._client = Client(access)

    def get(self, path: str) -> dict[str, Any]:
        """Raises NotFound, ConfigError (refused) and PlatformError (try again)."""
        try:
            return self._client.get(path)
        except Refusal as error:
            raise (NotFound(str(error)) if error.status == 404 else error) from None

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Of what may be created twice. Raises ConfigError, PlatformError."""
        return self._client.create(path, body, patience_s=PATIENCE_S)

    def try_to_create(self, path: str, body: dict[str, Any]) -> None:
        """Ask whether it would be created: its schema, admission, quotas; nothing is created.

        Raises ConfigError, PlatformError.
        """
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        try:
            self._client.create(path, body, query=query, patience_s=PATIENCE_S)
        except Refusal as error:
            if error.status != ALREADY_EXISTS:
                raise
