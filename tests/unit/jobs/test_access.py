"""Where the API server is found, and what it is asked with."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvr_components.jobs.kube.access import find_access, from_service_account
from rlvr_components.jobs.kube.tokens import ExecPlugin, TokenFile
from rlvr_trainer.errors import ConfigError


def write(path: Path, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    tree = {
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "mine"}},
            {"name": "two", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example.com/", **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    return path


def test_a_context_names_server_namespace_and_token(kubeconfig: Path) -> None:
    write(kubeconfig, {"token": "abc"})

    found = find_access()

    assert (found.server, found.namespace) == ("https://api.example.com", "mine")
    assert found.token.value() == "abc"
    assert not found.is_of_pod
    assert find_access("two").namespace == "default"


def test_a_context_that_is_not_there_is_told_with_those_that_are(kubeconfig: Path) -> None:
    write(kubeconfig)

    with pytest.raises(ConfigError, match=r"has no context 'three'; it has one, two"):
        find_access("three")


def test_the_first_of_several_files_wins(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(kubeconfig, {"token": "first"})
    other = write(tmp_path / "other", {"token": "second"})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{kubeconfig}:{other}")

    assert find_access().token.value() == "first"


def test_certificates_are_read_from_files_beside_it_and_from_the_file_itself(
    kubeconfig: Path, certificate: tuple[Path, Path]
) -> None:
    made, key = certificate
    (kubeconfig.parent / "ca.crt").write_bytes(made.read_bytes())
    write(
        kubeconfig,
        {
            "client-certificate-data": base64.b64encode(made.read_bytes()).decode(),
            "client-key-data": base64.b64encode(key.read_bytes()).decode(),
        },
        **{"certificate-authority": "ca.crt"},
    )

    found = find_access()

    assert found.ssl_context is not None
    assert [each["subject"] for each in found.ssl_context.get_ca_certs()] == [
        ((("commonName", "test"),),)
    ]


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"client-certificate-data": "%%%"}, "certificates cannot be used"),
        ({"username": "me", "password": "x"}, "API servers no longer accept"),
    ],
)
def test_what_cannot_be_used_is_told(kubeconfig: Path, user: dict[str, Any], message: str) -> None:
    write(kubeconfig, user)

    with pytest.raises(ConfigError, match=message):
        find_access()


def id_token(expires_at: float) -> str:
    """A JWT whose signature nobody on this side checks."""

    def part(content: dict[str, Any]) -> str:
        encoded = base64.urlsafe_b64encode(json.dumps(content).encode())
        return encoded.decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'exp': int(expires_at)})}.c2lnbmF0dXJl"


def test_an_auth_provider_is_left_to_the_official_client(kubeconfig: Path) -> None:
    token = id_token(time.time() + 3600)
    write(kubeconfig, {"auth-provider": {"name": "oidc", "config": {"id-token": token}}})

    assert find_access().token.value() == token


@pytest.mark.parametrize("config", [{}, {"id-token": id_token(0.0)}], ids=["none", "expired"])
def test_an_auth_provider_without_a_token_says_what_to_do(
    kubeconfig: Path, config: dict[str, str]
) -> None:
    write(kubeconfig, {"auth-provider": {"name": "oidc", "config": config}})

    with pytest.raises(ConfigError, match=r"auth-provider gave no token.*log in"):
        find_access().token.value()


def test_without_any_cluster_it_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(ConfigError, match=r"no kubeconfig at .*none and this is not a pod"):
        find_access()


def test_a_pod_is_asked_with_its_service_account(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    for name, content in (("token", "abc\n"), ("namespace", "rlvr")):
        (tmp_path / name).write_text(content)
    (tmp_path / "ca.crt").write_bytes(certificate[0].read_bytes())

    found = from_service_account(tmp_path)

    assert (found.server, found.namespace) == ("https://[fd00::1]:6443", "rlvr")
    assert found.token.value() == "abc"
    assert found.is_of_pod


def test_a_pod_without_a_token_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        from_service_account(tmp_path)


def test_a_token_file_is_read_again_when_it_is_refused_and_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    token = TokenFile(path)
    assert token.value() == "one"
    path.write_text("two")
    assert token.value() == "one"

    assert token.refresh()
    assert token.value() == "two"

    path.write_text("three")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert token.value() == "three"


PLUGIN = """
import json, os, pathlib
runs = pathlib.Path(os.environ["RUNS"])
number = int(runs.read_text() or 0) + 1 if runs.exists() else 1
runs.write_text(str(number))
assert json.loads(os.environ["KUBERNETES_EXEC_INFO"])["kind"] == "ExecCredential"
status = {"token": f"token-{number}", "expirationTimestamp": os.environ["ENDS"]}
print(json.dumps({"status": status}))
"""


def plugin(tmp_path: Path, code: str = PLUGIN, ends: str = "2999-01-01T00:00:00Z") -> ExecPlugin:
    env = [{"name": "RUNS", "value": str(tmp_path / "runs")}, {"name": "ENDS", "value": ends}]
    return ExecPlugin({"command": sys.executable, "args": ["-c", code], "env": env}, "user 'u'")


def test_a_plugin_is_run_once_until_its_token_is_refused(tmp_path: Path) -> None:
    token = plugin(tmp_path)

    assert [token.value(), token.value()] == ["token-1", "token-1"]
    assert token.refresh()
    assert token.value() == "token-2"


def test_a_plugin_is_run_again_before_its_token_ends(tmp_path: Path) -> None:
    token = plugin(tmp_path, ends="2020-01-01T00:00:00Z")

    assert [token.value(), token.value()] == ["token-1", "token-2"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('session has expired')", "session has expired.*; log in"),
        ("print('hello')", "printed no token"),
    ],
)
def test_a_plugin_that_fails_says_so(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plugin(tmp_path, code).value()


def test_a_plugin_that_is_not_installed_gives_its_own_hint() -> None:
    missing = ExecPlugin({"command": "/no/aws", "installHint": "get the AWS CLI"}, "user 'u'")

    with pytest.raises(ConfigError, match=r"/no/aws did not run .*; get the AWS CLI"):
        missing.value()


def test_talking_to_a_cluster_imports_nothing_that_takes_seconds() -> None:
    code = (
        "import sys, json, rlvr_components.jobs.cluster\n"
        "print(json.dumps(sorted({each.partition('.')[0] for each in sys.modules})))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert not {"kubernetes", "torch", "kfp", "boto3"} & set(json.loads(result.stdout))


def test_an_authority_without_key_identifiers_is_trusted_as_kubectl_does(
    kubeconfig: Path, certificate: tuple[Path, Path]
) -> None:
    made, _ = certificate
    write(kubeconfig, **{"certificate-authority": str(made)})

    context = find_access().ssl_context

    assert context is not None
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
