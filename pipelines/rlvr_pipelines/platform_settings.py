"""The platform's settings as the command line gives them: a file, and `a=b` on top of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rlvr_trainer.errors import ConfigError


def read_settings(path: Path | None, overrides: Iterable[str]) -> dict[str, Any]:
    """The settings of a YAML file with the overrides; not validated yet. Raises ConfigError.

    A key within a section follows its first dot, and may have dots itself, as labels do:
    `node_selector.kubernetes.io/arch=amd64`.
    """
    settings = _read(path) if path else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"--platform-set {override!r} has no value; write it as key=value or "
                "section.key=value"
            )
        section, dot, inner = key.partition(".")
        if not dot:
            settings[key] = _value(override, text)
            continue
        if not isinstance(settings.setdefault(section, {}), dict):
            raise ConfigError(
                f"--platform-set {override!r}: {section} is not a section; set {section}=…"
            )
        settings[section][inner] = text  # labels, selectors and environment are strings
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}; correct it") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds {type(tree).__name__}; the platform's settings are a mapping of keys"
        )
    return tree


def _value(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ConfigError(
            f"--platform-set {override!r}: {text!r} is not a YAML value; quote it"
        ) from None
