from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from rlvr_pipelines.access_options import AccessOptions
from rlvr_pipelines.kubeflow.connection import connect
from rlvr_pipelines.kubeflow.kfp_errors import message_of, of_status
from rlvr_trainer.errors import ConfigError, PlatformError

from .conftest import Serve, use_kubeconfig


def test_it_connects_and_knows_the_server(serve: Serve) -> None:
    fake = serve()

    kubeflow = connect(AccessOptions(endpoint=fake.url))

    assert (kubeflow.health.version, kubeflow.health.multi_user) == ("2.17.0", False)
    assert fake.requests == ["GET /apis/v2beta1/healthz"]
    assert kubeflow.link("runs/details/1") == f"{fake.url}/#/runs/details/1"


def test_the_endpoint_and_the_ui_may_stand_in_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", serve().url)
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example.com/pipeline/")

    link = connect(AccessOptions()).link("runs/details/1")

    assert link == "https://kubeflow.example.com/pipeline/#/runs/details/1"


def test_without_endpoint_and_kubeconfig_it_says_what_to_give(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ConfigError, match="--endpoint URL or set KF_PIPELINES_ENDPOINT"):
        connect(AccessOptions())

    assert capsys.readouterr().out == ""  # the output may be JSON


def test_without_endpoint_it_is_reached_through_the_clusters_api_server(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = serve()
    tree = {
        "current-context": "one",
        "clusters": [{"name": "one", "cluster": {"server": fake.url}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(tree))
    use_kubeconfig(tmp_path / "kubeconfig", monkeypatch)

    kubeflow = connect(AccessOptions())
    kubeflow.call(kubeflow.pipelines.pipeline_service_list_pipelines)

    assert fake.requests == ["GET /apis/v2beta1/healthz", "GET /apis/v2beta1/pipelines"]
    assert fake.headers["authorization"] == "Bearer t"
    assert kubeflow.link("runs/details/1") == "/pipeline/#/runs/details/1"


def test_a_missing_server_is_detected_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()

    with pytest.raises(PlatformError, match=f"{endpoint} cannot be reached; check --endpoint"):
        connect(AccessOptions(endpoint=endpoint))

    assert time.monotonic() - start < 5


def test_a_server_that_is_too_old_is_refused(serve: Serve) -> None:
    fake = serve(version="2.4.1")

    with pytest.raises(ConfigError, match=r"Kubeflow Pipelines 2\.4\.1.*needs 2\.5 or newer"):
        connect(AccessOptions(endpoint=fake.url))


def test_a_server_of_the_first_generation_has_no_such_path(serve: Serve) -> None:
    fake = serve(failures=[404])

    with pytest.raises(ConfigError, match=r"404.*2\.5 or newer"):
        connect(AccessOptions(endpoint=fake.url))


@pytest.mark.parametrize("version", ["unknown", "", "master", "2.5.0", "v2.17.3-rc.1"])
def test_an_unreleased_build_is_accepted(version: str, serve: Serve) -> None:
    assert connect(AccessOptions(endpoint=serve(version=version).url))


def test_a_login_page_is_an_error(serve: Serve) -> None:
    fake = serve(login_page=True)

    with pytest.raises(ConfigError, match=r"answers with a web page.*--cookies-file"):
        connect(AccessOptions(endpoint=fake.url))


def test_an_unauthenticated_user_is_told_how_to_authenticate(serve: Serve) -> None:
    fake = serve(token="secret")

    with pytest.raises(ConfigError, match=r"does not know who is calling.*--token-file"):
        connect(AccessOptions(endpoint=fake.url))


def test_a_token_file_is_read_again_for_every_call(serve: Serve, tmp_path: Path) -> None:
    fake = serve(token="one")
    token_file = tmp_path / "token"
    token_file.write_text("one\n")
    kubeflow = connect(AccessOptions(endpoint=fake.url, token_file=token_file))

    fake.token = "two"
    token_file.write_text("two\n")

    assert kubeflow.call(kubeflow.pipelines.pipeline_service_list_pipelines) is not None


@pytest.mark.parametrize("variable", ["RLVR_KUBEFLOW_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"])
def test_a_token_may_stand_in_the_environment(
    variable: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv(
        variable, "secret" if variable.startswith("RLVR") else str(tmp_path / "token")
    )

    assert connect(AccessOptions(endpoint=serve(token="secret").url))


def test_cookies_are_sent(serve: Serve, tmp_path: Path) -> None:
    fake = serve()
    cookies_file = tmp_path / "cookies"
    cookies_file.write_text("authservice_session=abc\n")

    connect(AccessOptions(endpoint=fake.url, cookies_file=cookies_file))

    assert fake.headers["Cookie"] == "authservice_session=abc"


def test_a_token_file_that_is_not_there_is_named(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token cannot be read"):
        connect(AccessOptions(endpoint=serve().url, token_file=tmp_path / "token"))


def test_with_several_users_a_namespace_is_needed(serve: Serve) -> None:
    fake = serve(multi_user=True)

    with pytest.raises(ConfigError, match="add --namespace"):
        connect(AccessOptions(endpoint=fake.url))
    assert connect(AccessOptions(endpoint=fake.url, namespace="me")).namespace == "me"


def test_with_one_user_the_namespace_is_not_kubeflows(serve: Serve) -> None:
    assert connect(AccessOptions(endpoint=serve().url, namespace="jobs")).namespace is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_errors_are_retryable(status: int) -> None:
    assert isinstance(of_status("http://kf", status, b""), PlatformError)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_permanent_errors_are_not_retryable(status: int) -> None:
    error = of_status("http://kf", status, b"")

    assert isinstance(error, ConfigError)
    assert str(status) in str(error)


def test_the_servers_innermost_words_are_shown() -> None:
    body = {
        "error": "Failed to create a run: InvalidInputError: The run name is empty",
        "code": 3,
        "message": "Failed to create a run: InvalidInputError: The run name is empty",
        "details": [{"code": 3, "message": "The run name\n is empty"}],
    }

    assert message_of(json.dumps(body)) == ": The run name is empty"
    assert message_of(b'{"error_message": "no file", "error_details": ""}') == ": no file"
    assert message_of("RBAC: access denied") == ": RBAC: access denied"
    assert message_of("<html>no</html>") == message_of(None) == message_of("[]") == ""
    assert len(message_of("x" * 10_000)) < 500
