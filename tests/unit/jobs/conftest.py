from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rlvr_components.jobs.cluster import following, submission
from rlvr_components.kubernetes import client, container_logs, watch

from .fake_api_server import FakeApiServer, serving, write_kubeconfig


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApiServer]:
    """Start a fake API server, point the kubeconfig to it, and shorten the launcher's delays."""
    for name, value in (("http_proxy", ""), ("no_proxy", "*")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(client, "MAX_DELAY_S", 0.1)
    monkeypatch.setattr(following, "DRAIN_S", 0.2)
    monkeypatch.setattr(following, "SETTLE_S", 0.3)
    monkeypatch.setattr(following, "LOOK_S", 0.1)
    monkeypatch.setattr(following, "TICK_S", 0.05)
    monkeypatch.setattr(container_logs, "REOPEN_S", 0.05)
    monkeypatch.setattr(submission, "GONE_INTERVAL_S", 0.05)
    monkeypatch.setattr(watch, "WATCH_S", 5)
    with serving(FakeApiServer()) as fake:
        token_file = tmp_path / "token"
        token_file.write_text(fake.token)
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", fake, token_file)
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield fake


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("pki")
    files = folder / "ca.crt", folder / "ca.key"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files
