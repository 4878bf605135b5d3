from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).parents[3] / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())


@functools.cache
def build(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that `kubectl kustomize` renders from a folder."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on the PATH: kustomizations are not built")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [*yaml.safe_load_all(done.stdout)]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


@pytest.fixture
def base() -> list[dict[str, Any]]:
    return build(MANIFESTS / "base")


def with_component(scratch: Path, component: Path, resources: str) -> list[dict[str, Any]]:
    """Render a component over a folder of resources, in a copy: kustomize wants relative paths."""
    shutil.copytree(MANIFESTS, scratch / "manifests")
    relative = component.relative_to(MANIFESTS)
    (scratch / "kustomization.yaml").write_text(
        f"resources: [{resources}]\ncomponents: [manifests/{relative}]\n"
    )
    return build(scratch)
