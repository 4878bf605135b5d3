"""Find the API server and its credentials."""

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

from rlvr_components.kubernetes.access import ApiServerAccess, find_access, from_service_account
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

    access = find_access()

    assert (access.server, access.namespace) == ("https://api.example.com", "mine")
    assert access.authorization() == "Bearer abc"
    assert not access.in_pod
    assert find_access("two").namespace == "default"


def test_an_unknown_context_is_an_error_that_lists_the_contexts(kubeconfig: Path) -> None:
    write(kubeconfig)

    with pytest.raises(ConfigError, match=r"has no context 'three'; it has one, two"):
        find_access("three")


def test_an_unknown_user_is_an_error_that_lists_the_users(kubeconfig: Path) -> None:
    write(kubeconfig)
    kubeconfig.write_text(kubeconfig.read_text().replace("user: u", "user: v"))

    with pytest.raises(ConfigError, match=r"has no user 'v'; it has u"):
        find_access()


def test_the_first_of_several_kubeconfigs_wins(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(kubeconfig, {"token": "first"})
    other = write(tmp_path / "other", {"token": "second"})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{kubeconfig}:{other}")

    assert find_access().authorization() == "Bearer first"


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

    context = ssl_context(find_access())

    assert [certificate["subject"] for certificate in context.get_ca_certs()] == [
        ((("commonName", "test"),),)
    ]


def ssl_context(access: ApiServerAccess) -> ssl.SSLContext:
    context: ssl.SSLContext = access.pool().connection_pool_kw["ssl_context"]
    return context


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"client-certificate-data": "%%%"}, "certificates of context 'one' .* cannot be used"),
        ({"client-certificate": "none.crt"}, r"does not exist: .*none.crt.*; correct it"),
        ({"tokenFile": "none"}, r"No such file or directory: .*none.*; correct it"),
    ],
)
def test_unusable_credentials_are_an_error(
    kubeconfig: Path, user: dict[str, Any], message: str
) -> None:
    write(kubeconfig, user)

    with pytest.raises(ConfigError, match=message):
        find_access().pool()


@pytest.mark.parametrize("text", ["", "- a list", "{", "contexts: 3\ncurrent-context: one"])
def test_a_file_that_is_not_a_kubeconfig_is_an_error(kubeconfig: Path, text: str) -> None:
    kubeconfig.write_text(text)

    with pytest.raises(ConfigError, match=rf"{kubeconfig}.*; correct it, or set KUBECONFIG"):
        find_access()


def test_the_first_files_context_is_current_as_for_kubectl(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(kubeconfig)
    write(tmp_path / "other")
    tree = yaml.safe_load(kubeconfig.read_text())
    kubeconfig.write_text(yaml.safe_dump({**tree, "current-context": "two"}))
    monkeypatch.setenv("KUBECONFIG", f"{kubeconfig}:{tmp_path / 'other'}")

    assert find_access().namespace == "default"


def test_the_clusters_proxy_takes_precedence_over_the_environments(
    kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "http://environment:3128")
    write(kubeconfig)
    assert find_access().pool().proxy.host == "environment"  # type: ignore[union-attr]

    monkeypatch.setenv("no_proxy", "example.com")
    assert find_access().pool().proxy is None

    write(kubeconfig, **{"proxy-url": "http://cluster:3128"})
    assert find_access().pool().proxy.host == "cluster"  # type: ignore[union-attr]


def id_token(expires_at: float) -> str:
    """Return a JWT; its signature is not verified on this side."""

    def part(content: dict[str, Any]) -> str:
        encoded = base64.urlsafe_b64encode(json.dumps(content).encode())
        return encoded.decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'exp': int(expires_at)})}.c2lnbmF0dXJl"


def test_an_auth_provider_is_left_to_the_official_client(kubeconfig: Path) -> None:
    token = id_token(time.time() + 3600)
    write(kubeconfig, {"auth-provider": {"name": "oidc", "config": {"id-token": token}}})

    assert find_access().authorization() == f"Bearer {token}"


@pytest.mark.parametrize("config", [{}, {"id-token": id_token(0.0)}], ids=["none", "expired"])
def test_an_auth_provider_without_a_token_says_what_to_do(
    kubeconfig: Path, config: dict[str, str]
) -> None:
    write(kubeconfig, {"auth-provider": {"name": "oidc", "config": config}})

    with pytest.raises(ConfigError, match=r"auth-provider gave no token.*log in"):
        find_access().authorization()


def test_without_any_cluster_it_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(ConfigError, match=r"no kubeconfig exists at .*none, and this is not a pod"):
        find_access()


def test_a_pod_is_asked_with_its_service_account(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    for name, content in (("token", "abc\n"), ("namespace", "rlvr")):
        (tmp_path / name).write_text(content)
    (tmp_path / "ca.crt").write_bytes(certificate[0].read_bytes())

    access = from_service_account(tmp_path)

    assert (access.server, access.namespace) == ("https://[fd00::1]:6443", "rlvr")
    assert access.authorization() == "bearer abc"
    assert access.in_pod


def test_a_pod_without_a_token_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        from_service_account(tmp_path)


def test_a_token_file_is_read_again_when_it_is_refused(kubeconfig: Path) -> None:
    path = kubeconfig.parent / "token"
    path.write_text("one")
    write(kubeconfig, {"tokenFile": "token"})
    access = find_access()
    assert access.authorization() == "Bearer one"
    assert not access.reload("Bearer one")

    path.write_text("two")

    assert access.reload("Bearer one")
    assert access.authorization() == "Bearer two"


def test_a_pods_token_is_read_again_when_it_is_refused(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "ca.crt").write_bytes(certificate[0].read_bytes())
    (tmp_path / "token").write_text("one")
    access = from_service_account(tmp_path)
    assert access.authorization() == "bearer one"

    (tmp_path / "token").write_text("two")

    assert access.reload("bearer one")
    assert access.authorization() == "bearer two"


PLUGIN = """
import json, os, pathlib
runs = pathlib.Path(os.environ["RUNS"])
number = int(runs.read_text() or 0) + 1 if runs.exists() else 1
runs.write_text(str(number))
asked = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
status = {"token": f"token-{number}", "expirationTimestamp": os.environ["ENDS"]}
print(json.dumps({**asked, "status": status}))
"""
API_VERSION = "client.authentication.k8s.io/v1"


def plugin(kubeconfig: Path, code: str = PLUGIN, ends: str = "2999-01-01T00:00:00Z") -> None:
    runs = kubeconfig.parent / "runs"
    env = [{"name": "RUNS", "value": str(runs)}, {"name": "ENDS", "value": ends}]
    program = {"command": sys.executable, "args": ["-c", code], "env": env}
    write(kubeconfig, {"exec": {"apiVersion": API_VERSION, **program}})


def test_a_plugin_is_run_once_until_its_token_is_refused(kubeconfig: Path) -> None:
    plugin(kubeconfig)
    access = find_access()

    assert [access.authorization(), access.authorization()] == ["Bearer token-1"] * 2
    assert access.reload("Bearer token-1")
    assert access.authorization() == "Bearer token-2"


def test_a_plugin_is_run_again_before_its_token_expires(kubeconfig: Path) -> None:
    plugin(kubeconfig, ends="2020-01-01T00:00:00Z")
    access = find_access()

    assert access.authorization() != access.authorization()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('session has expired')", "session has expired.*; log in"),
        ("print('hello')", "exec gave no token .*failed to decode process output.*; log in"),
    ],
)
def test_a_plugin_that_fails_says_so(
    kubeconfig: Path, code: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin(kubeconfig, code)

    with pytest.raises(ConfigError, match=message):
        find_access()

    assert capfd.readouterr() == ("", "")


def test_a_plugin_that_is_not_installed_gives_its_own_hint(kubeconfig: Path) -> None:
    missing = {"apiVersion": API_VERSION, "command": "/no/aws", "installHint": "get the AWS CLI"}
    write(kubeconfig, {"exec": missing})

    with pytest.raises(ConfigError, match=r"/no/aws.*; get the AWS CLI"):
        find_access()


def test_a_plugin_may_bring_a_certificate_and_later_a_new_one(
    kubeconfig: Path, certificate: tuple[Path, Path]
) -> None:
    made, key = (path.read_text() for path in certificate)
    status = {"clientCertificateData": made, "clientKeyData": key}
    answer = {"apiVersion": API_VERSION, "kind": "ExecCredential", "status": status}
    (kubeconfig.parent / "answer").write_text(json.dumps(answer))
    plugin(kubeconfig, f"print(open({str(kubeconfig.parent / 'answer')!r}).read())")

    access = find_access()

    assert access.authorization() == ""
    assert access.pool().connection_pool_kw["ssl_context"]
    assert not access.reload("")

    status["clientCertificateData"] += "\n"
    (kubeconfig.parent / "answer").write_text(json.dumps(answer))
    assert access.reload("")


def test_the_official_client_is_imported_only_when_a_cluster_is_asked() -> None:
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

    context = ssl_context(find_access())

    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
