"""Local folders and S3 prefixes behind one small interface.

Keys are relative paths with / between their parts. A key that is not there raises
FileNotFoundError from either kind of storage. What cannot be written, and what S3 refuses, raises
ConfigError (it will not work until something is changed) or PlatformError (it may work later).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from uuid import uuid4

from rlvr_trainer.errors import ConfigError, PlatformError, RLVRError

S3_SCHEME = "s3://"
ASIDE_PREFIX = ".writing-"
MAX_ATTEMPTS = 10
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
MAX_CONFLICTS = 5
"""Attempts to create an object while others try to create the same one."""

DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}
NO_LINK_ERRNOS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


class Storage(Protocol):
    """A folder, here or far away."""

    @property
    def uri(self) -> str:
        """The folder itself, as `open_storage` takes it."""

    def read_bytes(self, key: str) -> bytes:
        """Raises FileNotFoundError when there is no such key."""

    def write_bytes(self, key: str, content: bytes) -> None:
        """Create or replace; a reader sees the old content or the new, never a part."""

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Create; False, and nothing is changed, when the key exists. Atomic."""

    def exists(self, key: str) -> bool:
        """Whether there is such a key."""

    def list(self, prefix: str = "") -> list[str]:
        """All keys below the folder `prefix` (empty: all), sorted."""

    def download_dir(self, prefix: str, target: Path) -> None:
        """Copy all keys below `prefix` to the folder `target`.

        Raises FileNotFoundError when there is none.
        """

    def upload_dir(self, source: Path, prefix: str) -> None:
        """Copy all files of the folder `source` below `prefix`."""

    def upload_file(self, source: Path, key: str) -> None:
        """Copy one file, of any size."""

    def download_file(self, key: str, target: Path) -> None:
        """Copy one file, of any size, into a folder that is there."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of each key below the folder `prefix`."""

    def delete(self, key: str) -> None:
        """Remove a key; nothing happens when there is none."""


def open_storage(uri: str | Path) -> Storage:
    """The storage of `s3://bucket/prefix` or of a local folder, which need not exist yet.

    Raises ConfigError for another scheme, or when boto3 is missing.
    """
    text = str(uri)
    if text.startswith(S3_SCHEME):
        return S3Storage(text)
    if "://" in text and not text.startswith("file://"):
        raise ConfigError(f"{text!r} is neither a folder nor s3://bucket/prefix; name one")
    return LocalStorage(Path(text.removeprefix("file://")).expanduser())


class LocalStorage:
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        return str(self._root)

    def read_bytes(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def write_bytes(self, key: str, content: bytes) -> None:
        path = self._path(key)
        with self._aside(path, content) as aside:
            os.replace(aside, path)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        path = self._path(key)
        with self._aside(path, content) as aside:
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINK_ERRNOS:
                    raise
                return _create(path, content)
        return True

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> list[str]:
        folder = self._path(prefix) if prefix.strip("/") else self._root
        found = (path for path in folder.rglob("*") if path.is_file())
        return sorted(
            path.relative_to(self._root).as_posix()
            for path in found
            if not path.name.startswith(ASIDE_PREFIX)
        )

    def sizes(self, prefix: str = "") -> dict[str, int]:
        return {key: self._path(key).stat().st_size for key in self.list(prefix)}

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def download_dir(self, prefix: str, target: Path) -> None:
        _download(self, prefix, target)

    def upload_dir(self, source: Path, prefix: str) -> None:
        _upload(self, source, prefix)

    def upload_file(self, source: Path, key: str) -> None:
        self.write_bytes(key, source.read_bytes())

    def download_file(self, key: str, target: Path) -> None:
        target.write_bytes(self.read_bytes(key))

    def _path(self, key: str) -> Path:
        return self._root / safe_key(key)

    @contextmanager
    def _aside(self, path: Path, content: bytes) -> Iterator[Path]:
        """A file with the content, beside `path`, gone at the end."""
        aside = path.with_name(f"{ASIDE_PREFIX}{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield aside
        except OSError as error:
            raise disk_error(path, error) from error
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


class S3Storage:
    """A prefix of a bucket in S3 or of a compatible server (AWS_ENDPOINT_URL_S3)."""

    def __init__(self, uri: str) -> None:
        self._bucket, _, prefix = uri.removeprefix(S3_SCHEME).partition("/")
        if not self._bucket:
            raise ConfigError(f"{uri!r} names no bucket; write s3://bucket/prefix")
        self._prefix = safe_key(prefix) if prefix.strip("/") else ""
        self._client = _s3_client()

    @property
    def uri(self) -> str:
        return f"{S3_SCHEME}{self._bucket}/{self._prefix}".rstrip("/")

    def read_bytes(self, key: str) -> bytes:
        with self._explained(key):
            response = self._client.get_object(Bucket=self._bucket, Key=self._key(key))
            content: bytes = response["Body"].read()
        return content

    def write_bytes(self, key: str, content: bytes) -> None:
        with self._explained(key):
            self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        from botocore.exceptions import ClientError

        with self._explained(key):
            for attempt in range(1, MAX_CONFLICTS + 1):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=self._key(key), Body=content, IfNoneMatch="*"
                    )
                except ClientError as error:
                    if _code(error) == "ConditionalRequestConflict" and attempt < MAX_CONFLICTS:
                        continue
                    if _code(error) != "PreconditionFailed":
                        raise
                    # A retry after a lost answer meets the object that its first attempt made.
                    return _was_retried(error) and self.read_bytes(key) == content
                break
        return True

    def exists(self, key: str) -> bool:
        try:
            with self._explained(key):
                self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        folder = self._key(prefix) if prefix.strip("/") else self._prefix
        start = f"{folder}/" if folder else ""
        own = len(self._prefix) + 1 if self._prefix else 0
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=start
            )
            found = {
                str(each["Key"])[own:]: int(each["Size"])
                for page in pages
                for each in page.get("Contents", ())
            }
        return {key: size for key, size in found.items() if not key.endswith("/")}

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def download_dir(self, prefix: str, target: Path) -> None:
        _download(self, prefix, target)

    def upload_dir(self, source: Path, prefix: str) -> None:
        _upload(self, source, prefix)

    def download_file(self, key: str, target: Path) -> None:
        """In parts, side by side: for files too large for memory."""
        with self._explained(key):
            self._client.download_file(self._bucket, self._key(key), str(target))

    def upload_file(self, source: Path, key: str) -> None:
        """In parts, side by side."""
        with self._explained(key):
            self._client.upload_file(str(source), self._bucket, self._key(key))

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{safe_key(key)}" if self._prefix else safe_key(key)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn what boto3 raises into errors that say what to do."""
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.uri}/{key}"
        try:
            yield
        except ClientError as error:
            raise _explain(where, self._bucket, _code(error), error) from error
        except S3UploadFailedError as error:
            cause = error.__context__
            code = _code(cause) if isinstance(cause, ClientError) else ""
            raise _explain(where, self._bucket, code, error) from error
        except BotoCoreError as error:
            raise _unreachable(where, error) from error


def disk_error(path: Path, error: OSError) -> RLVRError:
    """What to raise for an OSError while `path` was written."""
    if error.errno in DISK_ERRNOS:
        return PlatformError(
            f"{path} cannot be written ({error.strerror}); free some space or name another folder"
        )
    return ConfigError(
        f"{path} cannot be written ({error.strerror or error}); name a folder that you may write to"
    )


def safe_key(key: str) -> str:
    """The key without empty parts. Raises ConfigError for one that leaves its folder."""
    parts = [part for part in key.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or key.startswith("/") or "\\" in key or "\0" in key:
        raise ConfigError(f"{key!r} is no key below a folder; write a relative path without ..")
    return str(PurePosixPath(*parts))


def _create(path: Path, content: bytes) -> bool:
    """For file systems without hard links: exclusive, though a reader may see a part of it."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _download(storage: LocalStorage | S3Storage, prefix: str, target: Path) -> None:
    keys = storage.list(prefix)
    if not keys:
        raise FileNotFoundError(f"{storage.uri}/{prefix} holds no files")
    folder = safe_key(prefix) if prefix.strip("/") else ""
    for key in keys:
        path = target / safe_key(key.removeprefix(folder).lstrip("/"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.download_file(key, path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise disk_error(path, error) from error


def _upload(storage: LocalStorage | S3Storage, source: Path, prefix: str) -> None:
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder")
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        key = "/".join(filter(None, (prefix.strip("/"), path.relative_to(source).as_posix())))
        storage.upload_file(path, key)


def _s3_client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ConfigError("s3:// needs boto3; pip install 'rlvr[s3]'") from error
    config = Config(
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
    )
    return boto3.client("s3", config=config)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _was_retried(error: Any) -> bool:
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


def _explain(where: str, bucket: str, code: str, error: Exception) -> Exception:
    match code:
        case "NoSuchKey" | "404" | "NotFound":
            return FileNotFoundError(f"{where} does not exist")
        case "NoSuchBucket":
            return ConfigError(f"{where}: there is no bucket {bucket!r}; create it or name another")
        case "AccessDenied" | "403" | "Forbidden" | "AllAccessDisabled":
            return ConfigError(
                f"{where}: access is denied; grant this identity s3:GetObject, s3:PutObject and "
                f"s3:ListBucket on {bucket!r}"
            )
        case "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken":
            return ConfigError(f"{where}: the credentials are not valid ({code}); renew them")
        case _:
            return PlatformError(f"{where}: {error}; try again later")


def _unreachable(where: str, error: Exception) -> Exception:
    match type(error).__name__:
        case "NoCredentialsError" | "PartialCredentialsError" | "ProfileNotFound":
            return ConfigError(
                f"{where}: there are no credentials ({error}); set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
            )
        case "NoRegionError" | "ParamValidationError" | "InvalidEndpointURLError":
            return ConfigError(f"{where}: {error}; set AWS_DEFAULT_REGION or correct the address")
        case _:
            return PlatformError(
                f"{where}: the server cannot be reached ({error}); check the network and "
                "AWS_ENDPOINT_URL_S3, then try again"
            )
