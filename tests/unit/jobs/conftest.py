from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr_components.jobs.kube import client, following, logs, submission, watching

from .fake_api_server import FakeApiServer, serving, write_kubeconfig


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApiServer]:
    """A fake API server that the kubeconfig leads to, and a launcher with little patience."""
    for name, value in (("http_proxy", ""), ("no_proxy", "*")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(client, "MAX_DELAY_S", 0.1)
    monkeypatch.setattr(following, "DRAIN_S", 0.2)
    monkeypatch.setattr(following, "SETTLE_S", 0.3)
    monkeypatch.setattr(following, "LOOK_S", 0.1)
    monkeypatch.setattr(following, "TICK_S", 0.05)
    monkeypatch.setattr(logs, "REOPEN_S", 0.05)
    monkeypatch.setattr(submission, "GONE_INTERVAL_S", 0.05)
    monkeypatch.setattr(watching, "WATCH_S", 5)
    with serving(FakeApiServer()) as fake:
        token_file = tmp_path / "token"
        token_file.write_text(fake.token)
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", fake, token_file)
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield fake


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("pki")
    made, key = folder / "ca.crt", folder / "ca.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ),
            *("-nodes", "-days", "2", "-subj", "/CN=test", "-keyout", key, "-out", made),
        ],
        check=True,
        capture_output=True,
    )
    return made, key
