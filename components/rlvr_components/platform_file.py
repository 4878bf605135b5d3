"""Reading the platform's settings: YAML or JSON in, a checked Platform out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlvr_components.platform import Platform
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.recipe_file import explain_faults


def load_platform(path: Path) -> Platform:
    """The settings of a file. Raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); name a file such as manifests/base/platform.yaml"
        ) from None
    return parse_platform(text, origin=str(path))


def parse_platform(source: str | Mapping[str, Any], *, origin: str) -> Platform:
    """The settings in YAML or JSON, or in a tree already read.

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
        return Platform.model_validate(tree)
    except ValidationError as error:
        faults = explain_faults(error, Platform)
        raise ConfigError(f"{origin} holds no valid settings of a platform:\n{faults}") from None
