"""A connection to Kubeflow Pipelines: kfp's client, with time-outs and explained errors.

kfp's client finds the credentials: a projected token in a cluster, a token or cookies from a file
or the environment, the kubeconfig's through the API server's proxy.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import kfp.client  # noqa: TID253  (commands import this module after parsing)
from kfp.client.set_volume_credentials import (  # noqa: TID253
    ServiceAccountTokenVolumeCredentials,
)

from rlvr_pipelines.access_options import (
    ENDPOINT_VARIABLE,
    TOKEN_PATH_VARIABLE,
    UI_VARIABLE,
    AccessOptions,
)
from rlvr_pipelines.kubeflow.kfp_errors import explained
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.variables import COOKIES_VARIABLE, TOKEN_VARIABLE

CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60
OLDEST_VERSION = (2, 5)
HEALTH_PATH = "/apis/v2beta1/healthz"
NO_HOST = "http://localhost"
"""The host of the generated client if none is configured."""


@dataclass(frozen=True)
class Health:
    """The server's answer to a health check."""

    version: str
    """The release; `unknown` for a custom build."""
    multi_user: bool


class Kubeflow:
    """The API of a Kubeflow Pipelines whose version and access have been checked."""

    def __init__(self, client: Any, host: str, health: Health, access: AccessOptions) -> None:
        self.experiments, self.pipelines, self.runs = (
            client.experiments, client.pipelines, client.runs,
        )  # fmt: skip
        self.uploads = client.pipeline_uploads
        self.health, self.access = health, access
        self.namespace = _profile(client, health, access)
        """The profile; None for a Kubeflow without profiles, which rejects a namespace."""
        self._host = host
        self._ui = os.environ.get(UI_VARIABLE) or access.endpoint or _endpoint() or "/pipeline"

    def call(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call a function of the generated API. Raises ConfigError if refused, or PlatformError."""
        return _call(self._host, function, **arguments)

    def get(self, path: str) -> Any:
        """Return the JSON of a path that the generated API lacks. Raises as `call` does."""
        return self.call(
            self.runs.api_client.call_api,
            resource_path=path,
            method="GET",
            response_type="object",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
        )

    def get_text(self, path: str) -> str:
        """Return the text of a path. Raises as `call` does."""
        api_client = self.runs.api_client
        arguments = {"resource_path": path, "method": "GET", "auth_settings": ["Bearer"]}
        with contextlib.suppress(UnicodeDecodeError):  # of the client; the bytes are kept
            self.call(api_client.call_api, **arguments)
        data: str | bytes = api_client.last_response.data
        return data if isinstance(data, str) else data.decode("utf-8", "replace")

    def link(self, path: str) -> str:
        """Return the UI's address of a path; without a host behind the API server's proxy."""
        ui = self._ui if self._ui.startswith(("http", "/")) else f"https://{self._ui}"
        return f"{ui.rstrip('/')}/#/{path}"


def connect(access: AccessOptions) -> Kubeflow:
    """Connect as kfp's client does, and check the server.

    Raises ConfigError if the server is too old, not configured or refuses; PlatformError if it does
    not answer.
    """
    logging.getLogger("urllib3").setLevel(
        logging.ERROR
    )  # it warns of every attempt; the error suffices
    ignored = io.StringIO()  # the client prints on standard output what it could not load
    with warnings.catch_warnings(), contextlib.redirect_stdout(ignored):
        warnings.simplefilter("ignore", FutureWarning)  # "only works with v2"
        warnings.simplefilter("ignore", UserWarning)  # an endpoint without https://
        client = _Client(**_arguments(access))
    _check_version(client.health.version, client.host)
    return Kubeflow(client, client.host, client.health, access)


class _Client(kfp.client.Client):
    """kfp's client without the constructor's 20 s of retries if the server does not answer."""

    @cached_property
    def host(self) -> str:
        configuration = self._healthz_api.api_client.configuration
        # Through the API server's proxy the host ends with a slash and every path begins with one:
        # a double slash is redirected, and a redirected POST becomes a GET.
        configuration.host = configuration.host.rstrip("/")
        return str(configuration.host)

    @cached_property
    def health(self) -> Health:
        """The server's health, requested before anything else."""
        if self.host == NO_HOST:
            raise ConfigError(
                "neither an endpoint of Kubeflow Pipelines nor a kubeconfig is configured; give "
                f"--endpoint URL or set {ENDPOINT_VARIABLE} (after `kubectl port-forward -n "
                "kubeflow svc/ml-pipeline-ui 8080:80` it is http://localhost:8080)"
            )
        # The generated call drops the release from the answer.
        answer = _call(
            self.host,
            self._healthz_api.api_client.call_api,
            resource_path=HEALTH_PATH,
            method="GET",
            response_type="object",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
        )
        return Health(str(answer.get("tag_name") or "unknown"), bool(answer.get("multi_user")))

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Health:
        """Return the health, which the constructor reads to find out if there are profiles."""
        return self.health


def _call(host: str, function: Callable[..., Any], **arguments: Any) -> Any:
    with explained(host):
        answer = function(**arguments, _request_timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
    caller: Any = getattr(function, "__self__", None)
    api_client = getattr(caller, "api_client", caller)
    content_type = api_client.last_response.getheader("content-type") or ""
    if content_type.startswith("text/html"):
        # A proxy in front of Kubeflow answers with a login page, with status 200.
        raise ConfigError(
            f"{host} answers with a web page, as before a login; give --token-file or "
            f"--cookies-file (or set {TOKEN_VARIABLE} or {COOKIES_VARIABLE}), and check that "
            "--endpoint ends as the UI's address does (/pipeline in a full Kubeflow)"
        )
    return answer


def _arguments(access: AccessOptions) -> dict[str, Any]:
    """Return the arguments of kfp's client."""
    endpoint = access.endpoint or _endpoint()
    arguments: dict[str, Any] = {
        "host": endpoint or None,
        "cookies": _secret(access.cookies_file, COOKIES_VARIABLE),
        "ssl_ca_cert": str(access.ca_file) if access.ca_file else None,
        "kube_context": access.context,
    }
    token_path = access.token_file or os.environ.get(TOKEN_PATH_VARIABLE)
    if token_path:
        _read(Path(token_path))  # the client would only log an error and continue
        # This reads the file for every request, since the kubelet renews it.
        arguments["credentials"] = ServiceAccountTokenVolumeCredentials(path=str(token_path))
    elif token := os.environ.get(TOKEN_VARIABLE):
        arguments["existing_token"] = token
    return {name: value for name, value in arguments.items() if value is not None}


def _endpoint() -> str:
    return os.environ.get(ENDPOINT_VARIABLE, "")


def _secret(path: Path | None, variable: str) -> str | None:
    return _read(path) if path else os.environ.get(variable) or None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); name a file that holds the token or cookies"
        ) from None


def _check_version(version: str, host: str) -> None:
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if match and (int(match[1]), int(match[2])) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        raise ConfigError(
            f"{host} runs Kubeflow Pipelines {version}, and the pipeline needs {oldest} or newer; "
            "upgrade it, or run with --on pytorchjob"
        )


def _profile(client: Any, health: Health, access: AccessOptions) -> str | None:
    if not health.multi_user:
        return None
    namespace = access.namespace or client.get_user_namespace()
    if not namespace:
        raise ConfigError(
            "this Kubeflow has profiles, and none is given; add --namespace (the name of your "
            "profile is at the top of the dashboard)"
        )
    return str(namespace)
