"""Read the settings of the command line, the platform's or SageMaker's: a file and `a=b`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rlvr_components.platform.settings_file import override_settings
from rlvr_trainer.errors import ConfigError


def read_platform_settings(
    path: Path | None, overrides: Iterable[str], *, option: str = "--platform-set"
) -> dict[str, Any]:
    """Return a YAML file's settings with the overrides, unvalidated. Raises ConfigError."""
    return override_settings(_read(path) if path else {}, overrides, option=option)


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
        raise ConfigError(f"{path} holds {type(tree).__name__}; settings are a mapping of keys")
    return tree
