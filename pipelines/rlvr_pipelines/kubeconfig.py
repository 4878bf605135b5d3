"""The kubeconfig's context, chosen once for this process and all that it starts."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.suggest import did_you_mean

VARIABLE = "KUBECONFIG"
DEFAULT = "~/.kube/config"


def use_context(name: str | None) -> None:
    """Make the context current, in a file that KUBECONFIG names beside those that it named.

    kubernetes reads the variable when it is imported: call this before. Raises ConfigError.
    """
    if not name:
        return
    there = os.environ.get(VARIABLE) or DEFAULT
    contexts = [each["name"] for tree in _trees(there) for each in tree.get("contexts") or ()]
    if name not in contexts:
        known = ", ".join(contexts) or "none"
        raise ConfigError(
            f"--context {name!r} is not in the kubeconfig ({known}){did_you_mean(name, contexts)}; "
            "`kubectl config get-contexts` lists them"
        )
    handle, chosen = tempfile.mkstemp(prefix="rlvr-context-", suffix=".yaml")
    atexit.register(Path(chosen).unlink, missing_ok=True)
    with open(handle, "w", encoding="utf-8") as file:
        yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": name}, file)
    # kubectl takes the first file's context, the Python client the last one's
    os.environ[VARIABLE] = os.pathsep.join((chosen, there, chosen))


def has_cluster() -> bool:
    """Whether this machine was ever told of one."""
    paths = (os.environ.get(VARIABLE) or DEFAULT).split(os.pathsep)
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) or any(
        path and Path(path).expanduser().is_file() for path in paths
    )


def _trees(paths: str) -> Iterator[dict[str, Any]]:
    for text in paths.split(os.pathsep):
        path = Path(text).expanduser()
        if not text or not path.is_file():
            continue
        try:
            tree = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"kubeconfig {path} cannot be read ({error}); correct it") from None
        if isinstance(tree, dict):
            yield tree
