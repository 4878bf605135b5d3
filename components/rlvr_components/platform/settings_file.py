"""Read the platform's settings from a tree of keys and values, with `a.b=c` as overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from rlvr_components.platform.settings import Platform
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe.reader import explain_faults


def parse_platform(tree: Mapping[str, Any], *, origin: str) -> Platform:
    """Validate the platform's settings. Raises ConfigError with one line for each fault."""
    try:
        return Platform.model_validate(tree)
    except ValidationError as error:
        faults = explain_faults(error, Platform)
        raise ConfigError(f"{origin} holds no valid settings of a platform:\n{faults}") from None


def override_settings(
    settings: Mapping[str, Any], overrides: Iterable[str], *, option: str = "--platform-set"
) -> dict[str, Any]:
    """Return the settings overridden by `key=value` and `section.key=value`, not validated yet.

    A key within a section follows its first dot, and may have dots itself, as labels do:
    `node_selector.kubernetes.io/arch=amd64`. Raises ConfigError.
    """
    merged = dict(settings)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{option} {override!r} has no value; write it as key=value or section.key=value"
            )
        section, dot, inner = key.partition(".")
        if not dot:
            merged[key] = _value(option, override, text)
            continue
        known = merged.get(section, {})
        if not isinstance(known, Mapping):
            raise ConfigError(f"{option} {override!r}: {section} is not a section; set {section}=…")
        merged[section] = {**known, inner: text}  # labels, selectors and environment are strings
    return merged


def _value(option: str, override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise ConfigError(
            f"{option} {override!r}: {text!r} is not a YAML value; quote it"
        ) from None
