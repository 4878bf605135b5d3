"""Classify failures of TLS connections: real handshakes with servers that do only that."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rlvr_components.kubernetes.access import ApiServerAccess
from rlvr_components.kubernetes.api_errors import Outage, Refusal, from_transport
from rlvr_components.kubernetes.client import KubernetesApi
from rlvr_components.kubernetes.watch import Collection

pytestmark = pytest.mark.timeout(60)


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve every connection by the function, and yield the server's address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def accept() -> None:
            while not ended.is_set():
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        address = server.getsockname()
        try:
            yield f"https://127.0.0.1:{address[1]}"
        finally:
            ended.set()
            socket.create_connection(address).close()
            thread.join()


def accepts_and_closes(connection: socket.socket) -> None:
    """Accept and close, as a load balancer without a backend does."""
    connection.recv(4096)


def shakes_hands(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with tls:
            tls.settimeout(5)
            with suppress(ssl.SSLError):
                tls.do_handshake()
            while socket.socket.recv(
                tls, 4096
            ):  # otherwise unread data would reset the connection before the alert
                pass

    return serve


def client(server: str, **options: Any) -> KubernetesApi:
    """Return a client with these fields of the official client's Configuration."""

    def load(configuration: Any) -> None:
        for name, value in {"host": server, **options}.items():
            setattr(configuration, name, value)

    access = ApiServerAccess(load, namespace="rlvr", origin="context fake")
    return KubernetesApi(access, patience_s=0.0)


def test_a_load_balancer_that_accepts_and_closes_is_an_outage() -> None:
    with listening(accepts_and_closes) as server, pytest.raises(Outage) as caught:
        client(server).get("/api")

    assert "cannot be reached" in str(caught.value)
    assert "EOF" in str(caught.value)


def test_a_watch_outlives_a_load_balancer_that_accepts_and_closes() -> None:
    with listening(accepts_and_closes) as server:
        asking = client(server)
        watched = Collection(asking, "/api/v1/namespaces/rlvr/pods", {}, changed=lambda: None)
        watched.start()
        try:
            deadline = time.monotonic() + 5
            while not (watched.trouble or watched.error) and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            watched.close()

    assert watched.error is None
    assert isinstance(watched.trouble, Outage)


def test_a_certificate_that_is_not_trusted_is_a_refusal(certificate: tuple[Path, Path]) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(*certificate)

    with listening(shakes_hands(own)) as server, pytest.raises(Refusal) as caught:
        client(server).get("/api")

    assert "not trusted here" in str(caught.value)
    assert "correct the certificates of context fake" in str(caught.value)


def test_a_certificate_of_another_server_is_a_refusal(certificate: tuple[Path, Path]) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(*certificate)
    ours = {"ssl_ca_cert": str(certificate[0]), "tls_server_name": "other"}

    with (
        listening(shakes_hands(own)) as server,
        pytest.raises(Refusal, match="hostname 'other'"),
    ):
        client(server, **ours).get("/api")


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_server_that_does_not_trust_our_certificate_is_a_refusal(
    certificate: tuple[Path, Path],
) -> None:
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(*certificate)
    own.verify_mode = ssl.CERT_REQUIRED  # and it knows no authority
    made, key = map(str, certificate)
    ours = {"verify_ssl": False, "cert_file": made, "key_file": key}

    with listening(shakes_hands(own)) as server, pytest.raises(Refusal, match="unknown ca"):
        client(server, **ours).get("/api")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Refusal),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", Refusal),
        ("TLSV1_ALERT_UNKNOWN_CA", Refusal),
        ("TLSV1_ALERT_INTERNAL_ERROR", Outage),
        ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", Outage),
        ("WRONG_VERSION_NUMBER", Outage),
    ],
)
def test_only_certificate_errors_are_permanent(reason: str, expected: type) -> None:
    error = ssl.SSLError(1, reason)
    error.reason = reason

    assert isinstance(from_transport("https://api", "context fake", error), expected)
