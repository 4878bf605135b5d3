"""Turn a failed call to Kubeflow Pipelines into an error that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3.exceptions
from kfp_server_api import ApiException

from rlvr_trainer.errors import ConfigError, PlatformError, RLVRError

MAX_MESSAGE_CHARACTERS = 400


class KubeflowNotFound(ConfigError):
    """The id or path does not exist (404)."""


class KubeflowConflict(ConfigError):
    """The name exists already (409)."""


@contextmanager
def explained(host: str) -> Iterator[None]:
    """Raise an error of the body as ConfigError (refused) or PlatformError (worth a retry)."""
    try:
        yield
    except ApiException as error:
        raise of_status(host, error.status, error.body) from None
    except urllib3.exceptions.HTTPError as error:
        raise _of_transport(host, error) from None


def of_status(host: str, status: int, body: str | bytes | None) -> RLVRError:
    """Return the error for an HTTP status."""
    said = message_of(body)
    match status:
        case 401:
            return ConfigError(
                f"{host} does not know who is calling (401{said}); give --token-file or "
                "--cookies-file; a token that has expired must be fetched again"
            )
        case 403:
            return ConfigError(
                f"{host} denies the request (403{said}); check --namespace, and that your account "
                "may use it: a namespace that does not exist is denied too"
            )
        case 404:
            return KubeflowNotFound(
                f"{host} has no such id or path (404{said}); check the id, and that --endpoint is "
                "Kubeflow Pipelines 2.5 or newer"
            )
        case 409:
            return KubeflowConflict(
                f"{host} has that name already (409{said}); choose another name"
            )
        case 408 | 429 | 500 | 502 | 503 | 504:
            return PlatformError(f"{host} could not answer ({status}{said}); try again later")
        case _:
            return ConfigError(
                f"{host} refuses the request ({status}{said}); correct what it names"
            )


def message_of(body: str | bytes | None) -> str:
    """Return the server's innermost message as `: …`, or nothing."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body or ""
    try:
        answer = json.loads(text)
    except ValueError:
        # a proxy's answer: `RBAC: access denied`, or a page of HTML
        return "" if "<" in text else _short(text)
    return _short(_innermost(answer)) if isinstance(answer, dict) else ""


def _innermost(answer: dict[str, Any]) -> str:
    for detail in answer.get("details") or ():
        if isinstance(detail, dict) and detail.get("message"):
            return str(detail["message"])
    for key in ("message", "error_message", "error"):
        if answer.get(key):
            return str(answer[key])
    return ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    if len(line) > MAX_MESSAGE_CHARACTERS:
        line = line[:MAX_MESSAGE_CHARACTERS] + " …"
    return f": {line}" if line else ""


def _of_transport(host: str, error: urllib3.exceptions.HTTPError) -> RLVRError:
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, urllib3.exceptions.SSLError):
        return ConfigError(
            f"{host} has a certificate that is not trusted here ({cause}); give --ca-file with "
            "the authority that signed it"
        )
    match cause:
        case urllib3.exceptions.NameResolutionError():
            what = "is a name that does not resolve"
        case urllib3.exceptions.NewConnectionError():  # also a TimeoutError, by inheritance
            what = "cannot be reached"
        case urllib3.exceptions.TimeoutError():
            what = "does not answer in time"
        case _:
            what = "broke off the connection"
    return PlatformError(
        f"{host} {what}; check --endpoint, and that the port-forward or VPN to it is up"
    )
