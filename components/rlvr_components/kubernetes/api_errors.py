"""Explain the API server's refusals and failed connections as errors."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from typing import Any

from rlvr_trainer.errors import ConfigError, PlatformError

FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]+)")?'
)
PASSING = {408, 429, 500, 502, 503, 504}
"""HTTP statuses for which a retry may help."""
EXPIRED = 410
ABOUT_CERTIFICATES = re.compile("CERTIFICATE|UNKNOWN_CA")
"""Matches the reason of a TLS error: the peer's alerts about our certificate."""
ROLE = "manifests/base/launcher-role"


class Refusal(ConfigError):
    """The API server refused a request."""

    def __init__(self, message: str, *, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ObjectNotFound(Refusal):
    """The object does not exist, or the cluster does not have its kind."""

    def __init__(self, message: str, *, reason: str = "NotFound") -> None:
        super().__init__(message, status=404, reason=reason)


class Outage(PlatformError):
    """The API server did not answer, or could not for now; `status` is 0 without an answer."""

    def __init__(
        self, message: str, *, status: int = 0, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


def from_answer(
    server: str, request: str, status: int, body: bytes, retry_after: str | None = None
) -> Refusal | Outage:
    """Return the error for an HTTP status; `request` is `create pytorchjobs in rlvr`, say."""
    answer = _status_object(body)
    said = str(answer.get("message") or f"HTTP {status}")
    if status in PASSING or (status == 403 and "exceeded quota" in said):
        return Outage(
            f"the API server could not {request} ({status}: {said}); try again later",
            status=status,
            retry_after_s=_seconds(retry_after),
        )
    reason = str(answer.get("reason", ""))
    text = _explain(server, request, status, said, answer)
    if status == 404:
        return ObjectNotFound(text, reason=reason)
    return Refusal(text, status=status, reason=reason)


def from_transport(server: str, origin: str, error: Exception) -> Refusal | Outage:
    """Return the error for a failed connection."""
    for cause in _causes(error):
        if _is_about_certificates(cause):
            return Refusal(
                f"{server} has a certificate that is not trusted here, or does not accept ours "
                f"({cause}); correct the certificates of {origin}",
                status=0,
                reason="Certificate",
            )
    return Outage(
        f"the API server {server} cannot be reached ({_short(error)}); check {origin}, the network "
        "and a VPN to it"
    )


def _explain(server: str, request: str, status: int, said: str, answer: dict[str, Any]) -> str:
    match status:
        case 401:
            return (
                f"{server} does not accept the credentials (401); log in again, or renew the token"
            )
        case 403 if denied := FORBIDDEN.search(said):
            group = f".{denied['group']}" if denied["group"] else ""
            return (
                f"{denied['user']} may not {denied['verb']} {denied['resource']}{group} in "
                f"{denied['namespace'] or 'the cluster'}; bind the Role rlvr-launcher there "
                f"({ROLE})"
            )
        case 404 if not (answer.get("details") or {}).get("name"):
            return f"{request}: the cluster does not have this kind ({said})"
        case 403 | 400 | 422:
            return f"the cluster refuses to {request}: {said}"
        case _:
            return f"{request}: {said} ({status})"


def _status_object(body: bytes) -> dict[str, Any]:
    """Return Kubernetes' Status, or the first line of a proxy's answer as its message."""
    try:
        answer = json.loads(body)
    except ValueError:
        line = body.decode("utf-8", "replace").strip().partition("\n")[0]
        return {"message": line[:300]} if line and not line.startswith("<") else {}
    return answer if isinstance(answer, dict) else {}


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, then its chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_about_certificates(error: BaseException) -> bool:
    """Return True for a certificate error; other TLS errors, as of a load balancer, may pass."""
    from urllib3.util.ssl_match_hostname import CertificateError

    if isinstance(error, ssl.SSLCertVerificationError | CertificateError):
        return True
    return isinstance(error, ssl.SSLError) and bool(ABOUT_CERTIFICATES.search(error.reason or ""))


def _short(error: BaseException) -> str:
    text = str(error)
    return text.rpartition(": ")[2] if "object at 0x" in text else text or type(error).__name__
