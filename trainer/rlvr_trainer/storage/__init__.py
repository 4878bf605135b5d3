"""Local folders and S3 prefixes behind one small interface."""

from __future__ import annotations

from pathlib import Path

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.storage.folder import LocalStorage
from rlvr_trainer.storage.interface import Storage, safe_key
from rlvr_trainer.storage.s3 import S3_SCHEME, S3Storage

__all__ = ["S3_SCHEME", "LocalStorage", "S3Storage", "Storage", "open_storage", "safe_key"]


def open_storage(uri: str | Path) -> Storage:
    """Return the storage of `s3://bucket/prefix` or of a local folder, which need not exist yet.

    Raises ConfigError for another scheme, or if boto3 is missing.
    """
    text = str(uri)
    if text.startswith(S3_SCHEME):
        return S3Storage(text)
    if "://" in text and not text.startswith("file://"):
        raise ConfigError(f"{text!r} is neither a folder nor s3://bucket/prefix; name one")
    return LocalStorage(Path(text.removeprefix("file://")).expanduser())
