"""Send requests to the API server, and retry them; answers are plain dicts or streams of lines.

The official client's generated classes are not used: their watches and log streams end or hang
after a broken connection.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import urllib3

from rlvr_components.kubernetes.access import ApiServerAccess, find_access
from rlvr_components.kubernetes.api_errors import (
    ObjectNotFound,
    Outage,
    Refusal,
    from_answer,
    from_transport,
)
from rlvr_trainer import __version__

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
PATIENCE_S = 60.0
"""Time for which a request is retried; a restart of the server takes half of it."""
FIRST_DELAY_S, MAX_DELAY_S = 0.25, 30.0
MAX_SERVER_DELAY_S = 120.0
"""The longest Retry-After that is respected."""
PAGE = 500
CONFLICT = 409
CHUNK_BYTES = 2**16

Query = Mapping[str, str | int | bool]


class KubernetesApi:
    """An API server: that of `access`, by default of the kubeconfig or the service account.

    A request is retried for up to `patience_s`; `is_stopped` ends the pauses early. A signal
    handler needs its own instance, since the interrupted code may hold the pool's lock.
    """

    def __init__(
        self,
        access: ApiServerAccess | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.access = access or find_access()
        self._patience_s = patience_s
        self._is_stopped = is_stopped
        self._pool = self.access.pool()

    @property
    def namespace(self) -> str:
        """Return the context's namespace, or this pod's."""
        return self.access.namespace

    def get(self, path: str, query: Query | None = None, **options: Any) -> dict[str, Any]:
        """Return the object at a path, as `kubectl get --raw` does.

        Raises ObjectNotFound, Refusal, Outage.
        """
        return self.request("GET", path, query=query, **options)

    def list(self, path: str, query: Query | None = None, **options: Any) -> dict[str, Any]:
        """Return all pages as one list. Raises Refusal (410: list again), Outage."""
        listing = self.get(path, {**(query or {}), "limit": PAGE}, **options)
        page = listing
        while token := page.get("metadata", {}).get("continue"):
            page = self.get(path, {**(query or {}), "limit": PAGE, "continue": token}, **options)
            listing["items"] += page["items"]
        return listing

    def create(self, path: str, body: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Create the object. Raises Refusal, and Outage, after which it may or may not exist."""
        return self.request("POST", path, body=body, **options)

    def try_to_create(self, path: str, body: Mapping[str, Any]) -> None:
        """Check with a dry run that schema, admission and quotas accept the object.

        An existing object of its name is not an error. Raises Refusal, Outage.
        """
        try:
            self.create(path, body, query={"dryRun": "All", "fieldValidation": "Strict"})
        except Refusal as error:
            if error.status != CONFLICT:
                raise

    def merge(self, path: str, patch: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Merge the patch into the object. Raises Refusal, Outage."""
        kind = "application/merge-patch+json"
        return self.request("PATCH", path, body=patch, content_type=kind, **options)

    def delete(self, path: str, *, uid: str = "", **options: Any) -> bool:
        """Delete the object and its dependents; return False if it did not exist.

        With `uid`, another object of the same name is not deleted. Raises Refusal, Outage.
        """
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self.request("DELETE", path, body=body, **options)
        except ObjectNotFound:
            return False
        except Refusal as error:
            if not uid or error.status != CONFLICT:
                raise
            return False
        return True

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        patience_s: float | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Send one request, retried for up to `patience_s` while the server cannot answer."""
        deadline = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
        for delay_s in delays():
            try:
                response = self._send(method, path, query, body, content_type, read_timeout_s)
                with response:
                    content = response.read()
            except urllib3.exceptions.HTTPError as error:
                failure: Outage = self._outage(error)
            except Outage as error:
                failure = error
            else:
                return _parsed(content)
            delay_s = retry_delay(failure, delay_s)
            if self._is_stopped() or time.monotonic() + delay_s > deadline:
                raise failure
            pause(delay_s, self._is_stopped)
        raise AssertionError("delays() is infinite")

    def stream(self, path: str, query: Query | None = None, *, read_timeout_s: float) -> Stream:
        """Open a streamed answer. Raises Refusal, Outage, also while it is read."""
        try:
            response = self._send("GET", path, query, None, "application/json", read_timeout_s)
        except urllib3.exceptions.HTTPError as error:
            raise self._outage(error) from error
        return Stream(response, self._outage)

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        read_timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        url = self.access.server + path + (f"?{_encoded(query)}" if query else "")
        for is_last in (False, True):
            headers = {"Accept": "application/json", "User-Agent": f"rlvr/{__version__}"}
            if authorization := self.access.authorization():
                headers["Authorization"] = authorization
            if body is not None:
                headers["Content-Type"] = content_type
            response = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                preload_content=False,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
            )
            if response.status < 300:
                return response
            with response:
                content = response.read()
            if response.status == 401 and not is_last and self.access.reload(authorization):
                self._pool = self.access.pool()
                continue
            raise from_answer(
                self.access.server,
                describe(method, path),
                response.status,
                content,
                response.headers.get("Retry-After"),
            )
        raise AssertionError("the last answer was returned or raised")

    def _outage(self, error: Exception) -> Outage:
        """Return the Outage; raise Refusal for a certificate, since a retry cannot help."""
        failure = from_transport(self.access.server, self.access.origin, error)
        if isinstance(failure, Refusal):
            raise failure from error
        return failure


class Stream:
    """The lines of a streamed answer; `close` ends it from any thread."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, explain: Callable[[Exception], Outage]
    ) -> None:
        self._response = response
        self._explain = explain
        self._is_closed = False

    def lines(self, max_bytes: int = 0) -> Iterator[bytes]:
        """Yield lines cut to `max_bytes`, with their newline, which the last line may lack."""
        rest = b""
        try:
            for chunk in self._response.stream(CHUNK_BYTES, decode_content=False):
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield (line[:max_bytes] if max_bytes else line) + b"\n"
                if max_bytes and len(rest) > max_bytes:
                    rest = rest[:max_bytes]
        except (urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError) as error:
            if not self._is_closed:  # urllib3 and ssl raise various errors on a closed socket
                raise self._explain(error) from error
        finally:
            self._is_closed = True
            self._response.close()
        if rest:
            yield rest

    def close(self) -> None:
        """End the stream; a blocked read returns."""
        self._is_closed = True
        with suppress(Exception):  # the stream may be closing already
            self._response.shutdown()


def delays() -> Iterator[float]:
    """Yield the seconds to wait before each retry: growing, with jitter."""
    delay_s = FIRST_DELAY_S
    while True:
        yield delay_s * random.uniform(0.5, 1.5)
        delay_s = min(delay_s * 2, MAX_DELAY_S)


def retry_delay(error: Outage, delay_s: float) -> float:
    """Return the delay before a retry, at least the server's Retry-After within a limit."""
    return max(delay_s, min(error.retry_after_s or 0.0, MAX_SERVER_DELAY_S))


def pause(seconds: float, is_stopped: Callable[[], bool]) -> None:
    """Sleep, at most until stopped.

    Polls, since a signal may interrupt the holder of an event's lock.
    """
    until = time.monotonic() + seconds
    while not is_stopped() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def describe(method: str, path: str) -> str:
    """Describe a request: `create pytorchjobs in rlvr`, `get pods/log master-0 in rlvr`."""
    verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "get")
    _, separator, rest = path.partition("/namespaces/")
    if not separator:
        return f"{verb} {path}"
    namespace, _, tail = rest.partition("/")
    plural, name, sub = (*tail.split("/"), "", "")[:3]
    what = plural + (f"/{sub}" if sub else "") + (f" {name}" if name else "")
    return f"{verb} {what} in {namespace}"


def _encoded(query: Query) -> str:
    texts = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
    }
    return urlencode(texts)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        raise Outage(
            f"the API server's answer is not JSON ({content[:80]!r}); check the proxy in between"
        ) from None
    return answer if isinstance(answer, dict) else {}
