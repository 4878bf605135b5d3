"""Store files below a prefix of an S3 bucket."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlvr_trainer.errors import ConfigError, PlatformError
from rlvr_trainer.storage.atomic_files import reading, writing
from rlvr_trainer.storage.interface import Storage, safe_key

S3_SCHEME = "s3://"
MAX_ATTEMPTS = 10
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
MAX_CONFLICTS = 5
"""Attempts to create an object while others try to create the same one."""

DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}
READS = {"GetObject", "HeadObject"}
ACTIONS = {
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}
"""IAM's names of operations that it calls otherwise."""


class S3Storage(Storage):
    """A prefix of a bucket in S3 or of a compatible server (AWS_ENDPOINT_URL_S3)."""

    def __init__(self, uri: str) -> None:
        self._bucket, _, prefix = uri.removeprefix(S3_SCHEME).partition("/")
        if not self._bucket:
            raise ConfigError(f"{uri!r} does not name a bucket; write s3://bucket/prefix")
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
                    # A retry after a lost response meets the object that the first attempt created.
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
                if _code(error) in ("InvalidRange", "416"):  # the offset is the end
                    return b""
                raise
            content: bytes = response["Body"].read()
        return content

    def sizes(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        return {key: int(listing["Size"]) for key, listing in self._listed(prefix, after).items()}

    def fingerprint(self) -> str:
        """Return a hash of all keys and their ETags."""
        tags = {key: listing["ETag"] for key, listing in self._listed("").items()}
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
                str(listing["Key"])[own:]: listing
                for page in pages
                for listing in page.get("Contents", ())
                if not listing["Key"].endswith("/")
            }

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def download_file(self, key: str, target: Path) -> None:
        """Download in parallel parts, for files larger than memory."""
        with writing(target), self._explained(key):
            self._client.download_file(self._bucket, self._key(key), str(target))

    def upload_file(self, source: Path, key: str) -> None:
        """Upload in parallel parts."""
        with reading(source), self._explained(key):
            self._client.upload_file(str(source), self._bucket, self._key(key))

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{safe_key(key)}" if self._prefix else safe_key(key)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Raise ConfigError, PlatformError or FileNotFoundError for what boto3 raises."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.uri}/{key}"
        try:
            yield
        except ClientError as error:
            if self._hides_absence(error, key):
                raise FileNotFoundError(f"{where} does not exist") from error
            raise _explain(where, self._bucket, error) from error
        except Boto3Error as error:  # a transfer wraps its cause
            cause = error.__context__
            if isinstance(cause, ClientError):
                raise _explain(where, self._bucket, cause) from error
            raise _unreachable(where, error) from error
        except BotoCoreError as error:
            raise _unreachable(where, error) from error

    def _hides_absence(self, error: Any, key: str) -> bool:
        """Return True if access was denied to a key that does not exist.

        S3 answers 404 only to an identity that may list the bucket. With a policy that allows some
        prefixes, servers differ on a read, but all of them answer a list.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        if error.operation_name not in READS or _code(error) not in DENIED:
            return False
        try:
            listing = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._key(key), MaxKeys=1
            )
        except (ClientError, BotoCoreError):
            return False
        return self._key(key) not in [item["Key"] for item in listing.get("Contents", ())]


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
    """Return what to raise for a botocore ClientError."""
    match code := _code(error):
        case "NoSuchKey" | "404" | "NotFound":
            return FileNotFoundError(f"{where} does not exist")
        case "NoSuchBucket":
            return ConfigError(f"{where}: the bucket {bucket!r} does not exist; create it")
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
            # a pod's credentials are renewed: the next attempt reads them again
            return PlatformError(
                f"{where}: the credentials have expired ({code}); renew them, then try again"
            )
        case _:
            return PlatformError(f"{where}: {error}; try again later")


def _denied_action(error: Any) -> str:
    """Return the action that S3 names, which may be one of KMS, or else the operation's."""
    said = re.search(r"not authorized to perform: ([\w-]+:\w+)", str(error))
    return said[1] if said else ACTIONS.get(error.operation_name, f"s3:{error.operation_name}")


def _unreachable(where: str, error: Exception) -> Exception:
    match type(error).__name__:
        case "NoCredentialsError" | "PartialCredentialsError" | "ProfileNotFound":
            return ConfigError(
                f"{where}: credentials are missing ({error}); set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
            )
        case "NoRegionError" | "ParamValidationError" | "InvalidEndpointURLError":
            return ConfigError(f"{where}: {error}; set AWS_DEFAULT_REGION or correct the address")
        case _:
            return PlatformError(
                f"{where}: the server cannot be reached ({error}); check the network and "
                "AWS_ENDPOINT_URL_S3, then try again"
            )
