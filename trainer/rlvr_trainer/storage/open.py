"""Local folders and S3 prefixes behind one small interface.

Keys are relative paths with / between their parts. A key that is not there raises
FileNotFoundError from either kind of storage. What cannot be read or written, and what S3 refuses,
raises ConfigError (it will not work until something is changed) or PlatformError (it may later).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol
from uuid import uuid4

from rlvr_trainer.errors import ConfigError, PlatformError
from rlvr_trainer.storage.atomic_files import disk_error

S3_SCHEME = "s3://"
ASIDE_PREFIX = ".writing-"
MAX_ATTEMPTS = 10
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
MAX_CONFLICTS = 5
"""Attempts to create an object while others try to create the same one."""

CHUNK_BYTES = 2**20
NO_LINK_ERRNOS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}

DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}
READS = {"GetObject", "HeadObject"}
ACTIONS = {
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}
"""What IAM calls an operation, where it has another name."""


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

    def read_from(self, key: str, offset: int) -> bytes:
        """Return what the key holds from that byte on. Raises FileNotFoundError as `read_bytes`."""

    def sizes(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        """Return the bytes of each key below the folder `prefix`, of those that sort after one."""

    def list(self, prefix: str = "") -> list[str]:
        """Return all keys below the folder `prefix` (empty: all), sorted."""
        return sorted(self.sizes(prefix))

    def download_dir(self, prefix: str, target: Path) -> None:
        """Copy all keys below `prefix` to the folder `target`.

        Raises FileNotFoundError when there is none.
        """
        keys = self.list(prefix)
        if not keys:
            raise FileNotFoundError(f"{self.uri}/{prefix} holds no files")
        folder = safe_key(prefix) if prefix.strip("/") else ""
        for key in keys:
            path = target / safe_key(key.removeprefix(folder).lstrip("/"))
            with _writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self.download_file(key, path)

    def upload_dir(self, source: Path, prefix: str) -> None:
        """Copy all files of the folder `source` below `prefix`."""
        if not source.is_dir():
            raise FileNotFoundError(f"{source} is no folder")
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            key = "/".join(filter(None, (prefix.strip("/"), path.relative_to(source).as_posix())))
            self.upload_file(path, key)

    def upload_file(self, source: Path, key: str) -> None:
        """Copy one file, of any size."""

    def download_file(self, key: str, target: Path) -> None:
        """Copy one file, of any size, into a folder that is there."""

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


class LocalStorage(Storage):
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        return str(self._root)

    def read_bytes(self, key: str) -> bytes:
        path = self._path(key)
        with _reading(path):
            return path.read_bytes()

    def write_bytes(self, key: str, content: bytes) -> None:
        path = self._path(key)
        with self._aside(path, [content]) as aside:
            os.replace(aside, path)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        path = self._path(key)
        with self._aside(path, [content]) as aside:
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
        return _size(self._path(key)) is not None

    def read_from(self, key: str, offset: int) -> bytes:
        path = self._path(key)
        with _open(path) as file, _reading(path):
            file.seek(offset)
            return file.read()

    def sizes(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        start = self._path(prefix) if prefix.strip("/") else self._root
        paths = (path for path in _walk(start) if not path.name.startswith(ASIDE_PREFIX))
        return {
            key: size
            for path in paths
            if (key := path.relative_to(self._root).as_posix()) > after
            and (size := _size(path)) is not None  # else it is gone since it was listed
        }

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error

    def upload_file(self, source: Path, key: str) -> None:
        path = self._path(key)
        with _open(source) as file, self._aside(path, _chunks(file, source)) as aside:
            os.replace(aside, path)

    def download_file(self, key: str, target: Path) -> None:
        path = self._path(key)
        with _open(path) as file, _writing(target), target.open("wb") as copy:
            copy.writelines(_chunks(file, path))

    def _path(self, key: str) -> Path:
        return self._root / safe_key(key)

    @contextmanager
    def _aside(self, path: Path, content: Iterable[bytes]) -> Iterator[Path]:
        """A file with the content, beside `path`, gone at the end."""
        aside = path.with_name(f"{ASIDE_PREFIX}{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("xb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
            yield aside
        except OSError as error:
            raise disk_error(path, error) from error
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


class S3Storage(Storage):
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

    def read_from(self, key: str, offset: int) -> bytes:
        from botocore.exceptions import ClientError

        with self._explained(key):
            try:
                response = self._client.get_object(
                    Bucket=self._bucket, Key=self._key(key), Range=f"bytes={offset}-"
                )
            except ClientError as error:
                if _code(error) in ("InvalidRange", "416"):  # nothing is there beyond the offset
                    return b""
                raise
            content: bytes = response["Body"].read()
        return content

    def sizes(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        return {key: int(each["Size"]) for key, each in self._listed(prefix, after).items()}

    def fingerprint(self) -> str:
        """Return a hash of all keys and of S3's own tags of what they hold."""
        tags = {key: each["ETag"] for key, each in self._listed("").items()}
        return hashlib.sha256(json.dumps(tags, sort_keys=True).encode()).hexdigest()

    def _listed(self, prefix: str, after: str = "") -> dict[str, Any]:
        folder = self._key(prefix) if prefix.strip("/") else self._prefix
        start = f"{folder}/" if folder else ""
        own = len(self._prefix) + 1 if self._prefix else 0
        options = {"StartAfter": self._key(after)} if after else {}
        with self._explained(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=start, **options
            )
            return {
                str(each["Key"])[own:]: each
                for page in pages
                for each in page.get("Contents", ())
                if not each["Key"].endswith("/")
            }

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def download_file(self, key: str, target: Path) -> None:
        """In parts, side by side: for files too large for memory."""
        with _writing(target), self._explained(key):
            self._client.download_file(self._bucket, self._key(key), str(target))

    def upload_file(self, source: Path, key: str) -> None:
        """In parts, side by side."""
        with _reading(source), self._explained(key):
            self._client.upload_file(str(source), self._bucket, self._key(key))

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{safe_key(key)}" if self._prefix else safe_key(key)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn what boto3 raises into errors that say what to do."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.uri}/{key}"
        try:
            yield
        except ClientError as error:
            if self._hides_absence(error, key):
                raise FileNotFoundError(f"{where} does not exist") from error
            raise _explain(where, self._bucket, error) from error
        except Boto3Error as error:  # of a transfer, around what ended it
            cause = error.__context__
            if isinstance(cause, ClientError):
                raise _explain(where, self._bucket, cause) from error
            raise _unreachable(where, error) from error
        except BotoCoreError as error:
            raise _unreachable(where, error) from error

    def _hides_absence(self, error: Any, key: str) -> bool:
        """Whether it refuses to read a key that is not there.

        That a key is absent, S3 says to those only who may list the bucket. Where some prefixes may
        be listed, not every server takes the key of a read for one; of a list, each does.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        if error.operation_name not in READS or _code(error) not in DENIED:
            return False
        try:
            found = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._key(key), MaxKeys=1
            )
        except (ClientError, BotoCoreError):
            return False
        return self._key(key) not in [each["Key"] for each in found.get("Contents", ())]


def safe_key(key: str) -> str:
    """The key without empty parts. Raises ConfigError for one that leaves its folder."""
    parts = [part for part in key.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or key.startswith("/") or "\\" in key or "\0" in key:
        raise ConfigError(f"{key!r} is no key below a folder; write a relative path without ..")
    return str(PurePosixPath(*parts))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an OSError into one that says what to do; a file that is not there stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (NotADirectoryError, IsADirectoryError):
        raise FileNotFoundError(f"{path} does not exist as a file") from None
    except OSError as error:
        raise disk_error(path, error, doing="read") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError into one that says what to do; that of a source that is not there stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise disk_error(path, error) from error


def _open(path: Path) -> IO[bytes]:
    with _reading(path):
        return path.open("rb")


def _chunks(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The rest of an open file; what fails is told of `path` and not of what is written."""
    while True:
        with _reading(path):
            chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def _walk(folder: Path) -> Iterator[Path]:
    """All that is no folder below `folder`; nothing when there is none. Raises as `_reading`."""

    def tell(error: OSError) -> None:
        with suppress(FileNotFoundError), _reading(Path(error.filename or folder)):
            raise error

    for parent, _, names in os.walk(folder, onerror=tell):
        for name in names:
            yield Path(parent, name)


def _size(path: Path) -> int | None:
    """Bytes of a file, None when there is none."""
    try:
        with _reading(path):
            found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _create(path: Path, content: bytes) -> bool:
    """For file systems without hard links: exclusive, though a reader may see a part of it."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


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
    # boto3 itself does not read AWS_REGION, which other tools of AWS set and read
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
    return boto3.client("s3", config=config, region_name=region)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _was_retried(error: Any) -> bool:
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


def _explain(where: str, bucket: str, error: Any) -> Exception:
    """What to raise for a botocore ClientError."""
    match code := _code(error):
        case "NoSuchKey" | "404" | "NotFound":
            return FileNotFoundError(f"{where} does not exist")
        case "NoSuchBucket":
            return ConfigError(f"{where}: there is no bucket {bucket!r}; create it or name another")
        case "PermanentRedirect" | "301" | "AuthorizationHeaderMalformed":
            return ConfigError(
                f"{where}: the bucket {bucket!r} is in another region ({code}); set "
                "AWS_DEFAULT_REGION to its own"
            )
        case _ if code in DENIED:
            return ConfigError(
                f"{where}: access is denied; grant this identity {_denied_action(error)} there"
            )
        case "InvalidAccessKeyId" | "SignatureDoesNotMatch":
            return ConfigError(f"{where}: the credentials are not valid ({code}); renew them")
        case "ExpiredToken" | "ExpiredTokenException" | "InvalidToken":
            # a pod's are renewed for it: the next attempt reads them anew
            return PlatformError(
                f"{where}: the credentials have expired ({code}); renew them, then try again"
            )
        case _:
            return PlatformError(f"{where}: {error}; try again later")


def _denied_action(error: Any) -> str:
    """As S3 says it, which may be one of KMS, or else that of the operation."""
    said = re.search(r"not authorized to perform: ([\w-]+:\w+)", str(error))
    return said[1] if said else ACTIONS.get(error.operation_name, f"s3:{error.operation_name}")


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
