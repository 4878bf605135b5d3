"""The few calls that a step makes to the API server besides those about its job.

Paths as `kubectl get --raw` takes them, plain dicts back.
"""

from __future__ import annotations

import json
from typing import Any

from rlvr_components.pipeline_run import own_namespace
from rlvr_trainer.errors import ConfigError, PlatformError

TIMEOUT_S = (10, 30)
"""To connect, and to read."""


class NotFound(ConfigError):
    """There is no such object, or no such kind."""


class KubernetesApi:
    """The API server that the pod's token, or the kubeconfig, leads to."""

    def __init__(self) -> None:
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            try:
                config.load_incluster_config(configuration)
            except config.ConfigException:
                config.load_kube_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise ConfigError(
                f"there is no cluster to talk to ({error}); set KUBECONFIG, or run this in a pod"
            ) from None
        self._client = client.ApiClient(configuration)
        self.namespace = own_namespace() or _context_namespace()
        """This pod's, or that of the kubeconfig's context."""

    def get(self, path: str) -> dict[str, Any]:
        """Raises NotFound, ConfigError (denied) and PlatformError (try again)."""
        return self._call("GET", path)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises as `get` does."""
        return self._call("POST", path, body)

    def _call(self, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        import urllib3
        from kubernetes.client import ApiException

        try:
            response, _, _ = self._client.call_api(
                path,
                verb,
                body=body,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=TIMEOUT_S,
            )
        except ApiException as error:
            raise _explain(verb, path, error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            host = self._client.configuration.host
            raise PlatformError(
                f"the API server {host} cannot be reached ({error}); check the network and "
                "network policies, then try again"
            ) from None
        found: dict[str, Any] = json.loads(response.data)
        return found


def _context_namespace() -> str:
    from kubernetes import config

    _, active = config.list_kube_config_contexts()
    return str(active["context"].get("namespace") or "default")


def _explain(verb: str, path: str, error: Any) -> ConfigError | PlatformError:
    try:
        said = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        said = str(error.reason)
    match error.status:
        case 404:
            return NotFound(f"{path}: {said}; it does not exist, or its kind is not installed")
        case 401:
            return ConfigError(f"{path}: {said}; the credentials are not valid, renew them")
        case 403:
            return ConfigError(
                f"{path}: {said}; bind the Role rlvr-launcher (manifests/base/launcher-role) to "
                "this step's service account"
            )
        case 400 | 405 | 409 | 422:
            return ConfigError(f"{verb} {path}: {said}; correct the settings of the platform")
        case _:
            return PlatformError(f"{path}: {error.status} {said}; try again later")
