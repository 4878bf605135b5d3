"""Reading the platform's settings: YAML or JSON and `a.b=c` in, a checked Platform out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlvr_components.platform import Platform
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe_file import explain_faults


def load_platform(path: Path, overrides: Iterable[str] = ()) -> Platform:
    """The settings of a file with the overrides. Raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); name a file such as manifests/base/platform.yaml"
        ) from None
    return parse_platform(text, overrides, origin=str(path))


def parse_platform(
    source: str | Mapping[str, Any], overrides: Iterable[str] = (), *, origin: str
) -> Platform:
    """The settings in YAML or JSON, or in a tree already read, with the overrides.

    Raises ConfigError with one line for each fault.
    """
    try:
        tree = yaml.safe_load(source) if isinstance(source, str) else source
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is neither YAML nor JSON: {error}; correct it") from None
    if not isinstance(tree, Mapping):
        raise ConfigError(
            f"{origin} holds {'nothing' if tree is None else type(tree).__name__}; the platform's "
            "settings are keys and values, image among them"
        )
    try:
        return Platform.model_validate(override_settings(tree, overrides))
    except ValidationError as error:
        faults = explain_faults(error, Platform)
        raise ConfigError(f"{origin} holds no valid settings of a platform:\n{faults}") from None


def override_settings(settings: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The settings with `key=value` and `section.key=value` on top of them; not validated yet.

    A key within a section follows its first dot, and may have dots itself, as labels do:
    `node_selector.kubernetes.io/arch=amd64`. Raises ConfigError.
    """
    merged = dict(settings)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"--platform-set {override!r} has no value; write it as key=value or "
                "section.key=value"
            )
        section, dot, inner = key.partition(".")
        if not dot:
            merged[key] = _value(override, text)
            continue
        known = merged.get(section, {})
        if not isinstance(known, Mapping):
            raise ConfigError(
                f"--platform-set {override!r}: {section} is not a section; set {section}=…"
            )
        merged[section] = {**known, inner: text}  # labels, selectors and environment are strings
    return merged


def _value(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ConfigError(
            f"--platform-set {override!r}: {text!r} is not a YAML value; quote it"
        ) from None
