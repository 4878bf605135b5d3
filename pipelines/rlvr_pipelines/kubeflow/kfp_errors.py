"""What a failed call to Kubeflow Pipelines means, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3.exceptions
from kfp_server_api import ApiException

from rlvr_trainer.errors import ConfigError, PlatformError, RLVRError

MAX_MESSAGE_CHARACTERS = 400


class NotFound(ConfigError):
    """There is nothing of that id, or no such path."""


class AlreadyThere(ConfigError):
    """The name is taken."""


@contextmanager
def explained(host: str) -> Iterator[None]:
    """Raise what goes wrong within as ConfigError (refused) or PlatformError (try again)."""
    try:
        yield
    except ApiException as error:
        raise of_status(host, error.status, error.body) from None
    except urllib3.exceptions.HTTPError as error:
        raise _of_transport(host, error) from None


def of_status(host: str, status: int, body: str | bytes | None) -> RLVRError:
    """The error behind an HTTP status."""
    said = message_of(body)
    match status:
        case 401:
            return ConfigError(
                f"{host} does not know who is calling (401{said}); give --token-file or "
                "--cookies-file: a token that has expired is to be fetched anew"
            )
        case 403:
            return ConfigError(
                f"{host} denies it (403{said}); check --namespace, and that your account may use "
                "it: a namespace that does not exist is denied too"
            )
        case 404:
            return NotFound(
                f"{host} has no such thing (404{said}); check the id, and that --endpoint is "
                "Kubeflow Pipelines 2.5 or newer"
            )
        case 409:
            return AlreadyThere(f"{host} has that already (409{said}); choose another name")
        case 408 | 429 | 500 | 502 | 503 | 504:
            return PlatformError(f"{host} could not answer ({status}{said}); try again later")
        case _:
            return ConfigError(f"{host} refuses it ({status}{said}); correct what it names")


def message_of(body: str | bytes | None) -> str:
    """What the server said, as `: …`; the outer layers of its message are left out."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body or ""
    try:
        answer = json.loads(text)
    except ValueError:
        # not KFP's own words but a proxy's: `RBAC: access denied`, or a page of HTML
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
            f"{host} shows a certificate that is not trusted here ({cause}); give --ca-file with "
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
