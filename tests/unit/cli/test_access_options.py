import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlvr_components.kubernetes.access import find_access, has_cluster, use_context
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.variables import CONTEXT_VARIABLE


@pytest.fixture(autouse=True)
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config"
    contexts = {"one": "jobs", "two": None}
    tree = {
        "current-context": "one",
        "clusters": [
            {"name": name, "cluster": {"server": f"https://{name}.example.com"}}
            for name in contexts
        ],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "me", "namespace": namespace}}
            for name, namespace in contexts.items()
        ],
    }
    path.write_text(yaml.safe_dump(tree))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv(CONTEXT_VARIABLE, "")  # restores what a test chooses
    monkeypatch.delenv(CONTEXT_VARIABLE)
    return path


def test_without_a_name_nothing_changes(kubeconfig: Path) -> None:
    use_context(None)

    assert CONTEXT_VARIABLE not in os.environ
    assert find_access().namespace == "jobs"


def test_this_process_and_those_it_starts_take_the_chosen_context() -> None:
    use_context("two")

    assert find_access().server == "https://two.example.com"
    assert find_access().namespace == "default"

    code = "from rlvr_components.kubernetes.access import find_access; print(find_access().server)"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "https://two.example.com"


def test_a_context_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"one, two.*did you mean 'two'"):
        use_context("tow")


def test_a_machine_without_a_kubeconfig_has_no_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert has_cluster()

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert not has_cluster()

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert has_cluster()
