"""Turn a recipe's model name into what transformers can load: a directory or a hub id."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr_trainer.errors import ConfigError, PlatformError
from rlvr_trainer.models.embedded import EMBEDDED_MODELS, EmbeddedModel, embedded_model_dir
from rlvr_trainer.recipe.schema import EMBEDDED_PREFIX, ModelSection
from rlvr_trainer.recipe.suggest import did_you_mean
from rlvr_trainer.storage.atomic_files import cache_dir, disk_error
from rlvr_trainer.variables import MODEL_DIR_VARIABLE

if TYPE_CHECKING:
    from rlvr_trainer.storage import S3Storage

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")


def locate_model(model: ModelSection) -> str:
    """Return a local directory with the model's files, or the hub id of a model on the hub.

    The embedded model needs no network, a model in S3 none if RLVR_MODEL_DIR has it. Raises
    ConfigError, PlatformError.
    """
    if model.name.startswith(EMBEDDED_PREFIX):
        return str(embedded_model_dir(find_embedded(model.name), cache_dir()))
    if model.is_hub_id:
        return model.name
    provided = os.environ.get(MODEL_DIR_VARIABLE) if model.name.startswith("s3://") else None
    return str(checked_model_dir(local_folder(provided or model.name)))


def find_embedded(model_name: str) -> EmbeddedModel:
    """Return the embedded model of `embedded:NAME`. Raises ConfigError."""
    name = model_name.removeprefix(EMBEDDED_PREFIX)
    if name not in EMBEDDED_MODELS:
        raise ConfigError(
            f"{model_name} is not an embedded model ({', '.join(EMBEDDED_MODELS)})"
            f"{did_you_mean(name, EMBEDDED_MODELS)}"
        )
    return EMBEDDED_MODELS[name]


def local_folder(uri: str) -> Path:
    """Return the folder itself, or this node's copy of one in S3.

    The first process downloads the copy, the others wait and share it. Changed files at the same
    address get another copy. Raises ConfigError, PlatformError.
    """
    return _downloaded(uri) if uri.startswith("s3://") else Path(uri).expanduser()


def checked_model_dir(folder: Path) -> Path:
    """Return `folder` if it holds a configuration and weights. Raises ConfigError."""
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


def _downloaded(uri: str) -> Path:
    from rlvr_trainer.storage import S3Storage

    storage, cache = S3Storage(uri), _writable_cache()
    state = storage.fingerprint()
    folder = cache / f"s3-{hashlib.sha256(f'{storage.uri} {state}'.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released with the process
            if not folder.is_dir():
                _download(storage, state, folder)
    except OSError as error:
        raise disk_error(folder, error) from error
    return folder


def _writable_cache() -> Path:
    """Return the cache, or a temporary folder if it is read-only, as in a pod."""
    cache = cache_dir()
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    is_writable = os.access(cache, os.W_OK)
    return cache if is_writable else Path(tempfile.gettempdir(), f"rlvr-cache-{os.getuid()}")


def _download(storage: S3Storage, state: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        aside = Path(temporary, "model")
        try:
            storage.download_dir("", aside)
        except FileNotFoundError:
            raise ConfigError(f"{storage.uri} does not hold files; check the address") from None
        if storage.fingerprint() != state:
            raise PlatformError(f"{storage.uri} changed while it was copied; try again")
        aside.rename(folder)
