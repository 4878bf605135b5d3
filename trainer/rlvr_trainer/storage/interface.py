"""Define the interface of storages, and check keys."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Protocol

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.storage.atomic_files import writing


class Storage(Protocol):
    """A folder on a disk or a prefix in S3.

    Keys are relative paths with / between their parts. A key that does not exist raises
    FileNotFoundError from either. What cannot be read or written, and what S3 refuses, raises
    ConfigError (something must be changed) or PlatformError (it may work later).
    """

    @property
    def uri(self) -> str:
        """The address that `open_storage` takes."""

    def read_bytes(self, key: str) -> bytes:
        """Return the content of a key. Raises FileNotFoundError."""

    def write_bytes(self, key: str, content: bytes) -> None:
        """Create or replace a key; a reader sees the old content or the new, never a part."""

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Create a key atomically, or return False if it exists."""

    def exists(self, key: str) -> bool:
        """Return True if the key exists."""

    def read_from(self, key: str, offset: int) -> bytes:
        """Return the content from the byte `offset` on. Raises FileNotFoundError."""

    def sizes(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        """Return the size of each key below the folder `prefix` that sorts behind `after`."""

    def list(self, prefix: str = "") -> list[str]:
        """Return all keys below the folder `prefix` (empty: all), sorted."""
        return sorted(self.sizes(prefix))

    def download_dir(self, prefix: str, target: Path) -> None:
        """Copy all keys below `prefix` to the folder `target`.

        Raises FileNotFoundError if there are none.
        """
        keys = self.list(prefix)
        if not keys:
            raise FileNotFoundError(f"{self.uri}/{prefix} holds no files")
        folder = safe_key(prefix) if prefix.strip("/") else ""
        for key in keys:
            path = target / safe_key(key.removeprefix(folder).lstrip("/"))
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self.download_file(key, path)

    def upload_dir(self, source: Path, prefix: str) -> None:
        """Copy all files of the folder `source` below `prefix`."""
        if not source.is_dir():
            raise FileNotFoundError(f"{source} is not a folder")
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            key = "/".join(filter(None, (prefix.strip("/"), path.relative_to(source).as_posix())))
            self.upload_file(path, key)

    def upload_file(self, source: Path, key: str) -> None:
        """Copy one file, of any size."""

    def download_file(self, key: str, target: Path) -> None:
        """Copy one file, of any size, into an existing folder."""

    def delete(self, key: str) -> None:
        """Remove a key if it exists."""


def safe_key(key: str) -> str:
    """Return the key without empty parts. Raises ConfigError if it leaves its folder."""
    parts = [part for part in key.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or key.startswith("/") or "\\" in key or "\0" in key:
        raise ConfigError(f"{key!r} is not a key below a folder; write a relative path without ..")
    return str(PurePosixPath(*parts))
