from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .fake_api import FakeKubeflow, serving

Serve = Callable[..., FakeKubeflow]


@pytest.fixture(autouse=True)
def _nobody_elses_kubeflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's endpoint, kubeconfig, token and context."""
    for name in (
        "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH",
        "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "RLVR_KUBEFLOW_TOKEN", "RLVR_KUBEFLOW_COOKIES",
        "KUBERNETES_SERVICE_HOST",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    use_kubeconfig(tmp_path / "no-kubeconfig", monkeypatch)
    monkeypatch.setattr("kfp.client.client.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context"))


def use_kubeconfig(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the kubeconfig; the client reads the variable only once, when imported."""
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Yield a function that starts a fake of Kubeflow with the given settings."""
    with ExitStack() as stack:

        def start(**settings: Any) -> FakeKubeflow:
            return stack.enter_context(serving(FakeKubeflow(**settings)))

        yield start
