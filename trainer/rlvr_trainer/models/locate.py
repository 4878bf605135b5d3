"""From a recipe's model name to what transformers can load: a directory, or a hub id."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.files import cache_dir
from rlvr_trainer.recipe import EMBEDDED_PREFIX, ModelSection
from rlvr_trainer.suggest import did_you_mean

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")


def locate_model(model: ModelSection) -> str:
    """A local directory with the model's files, or the hub id when the model is on the hub.

    The embedded model touches no network. Raises ConfigError, PlatformError.
    """
    if model.name.startswith(EMBEDDED_PREFIX):
        return str(_embedded(model.name.removeprefix(EMBEDDED_PREFIX)))
    if model.is_hub_id:
        return model.name
    if model.name.startswith("s3://"):
        return str(checked_model_dir(_downloaded(model.name)))
    return str(checked_model_dir(Path(model.name).expanduser()))


def checked_model_dir(folder: Path) -> Path:
    """`folder`, if it holds a configuration and weights. Raises ConfigError."""
    if not folder.is_dir():
        raise ConfigError(f"model directory {folder} does not exist; check model.name")
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model directory {folder} has no config.json; point model.name at a saved model"
        )
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_PATTERNS):
        raise ConfigError(
            f"model directory {folder} has a config.json but no weights "
            f"({', '.join(WEIGHT_PATTERNS)}); save the model there again"
        )
    return folder


def _embedded(name: str) -> Path:
    from rlvr_trainer.models.embedded import EMBEDDED_MODELS, embedded_model_dir

    if name not in EMBEDDED_MODELS:
        raise ConfigError(
            f"{EMBEDDED_PREFIX}{name} is not an embedded model ({', '.join(EMBEDDED_MODELS)})"
            f"{did_you_mean(name, EMBEDDED_MODELS)}"
        )
    return embedded_model_dir(EMBEDDED_MODELS[name], cache_dir())


def _downloaded(uri: str) -> Path:
    from rlvr_trainer.storage import open_storage

    folder = cache_dir() / f"s3-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
    open_storage(uri).download_dir("", folder)
    return folder
