"""Test the interface over local folders and S3.

S3 is played by moto's server, a fake: it speaks S3's protocol over HTTP on this machine, but checks
no permissions; what a real server refuses is injected as its answer.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.exceptions import RetriesExceededError
from botocore.exceptions import ClientError

from rlvr_trainer.data import load_rows, prepare
from rlvr_trainer.errors import ConfigError, DataError, PlatformError
from rlvr_trainer.models import local_folder, locate_model
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import ModelSection
from rlvr_trainer.storage import S3Storage, Storage, open_storage, safe_key
from rlvr_trainer.storage.atomic_files import write_text


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    uri = request.getfixturevalue("s3") if request.param == "s3" else tmp_path / "root"
    return open_storage(uri)


def test_written_content_is_read_back(storage: Storage) -> None:
    assert not storage.exists("a/b.txt")
    storage.write_bytes("a/b.txt", b"one")
    storage.write_bytes("a/b.txt", b"two")
    assert storage.exists("a/b.txt")
    assert storage.read_bytes("a/b.txt") == b"two"


def test_a_missing_key_is_a_file_not_found(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("absent")
    with pytest.raises(FileNotFoundError):
        storage.download_dir("absent", Path("unused"))


def test_keys_are_listed_by_folder(storage: Storage) -> None:
    for key in ("step-1/a", "step-1/b/c", "step-10/a", "top"):
        storage.write_bytes(key, b"")
    assert storage.list() == ["step-1/a", "step-1/b/c", "step-10/a", "top"]
    assert storage.list("step-1") == storage.list("step-1/") == ["step-1/a", "step-1/b/c"]
    assert storage.list("absent") == []


def test_a_folder_goes_up_and_comes_down(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "weights").write_bytes(b"\0" * 100_000)
    (source / "config.json").write_bytes(b"{}")
    storage.upload_dir(source, "step-1")
    storage.upload_dir(source, "")
    assert storage.list("step-1") == ["step-1/config.json", "step-1/deep/weights"]
    storage.download_dir("step-1", tmp_path / "target")
    assert (tmp_path / "target" / "deep" / "weights").read_bytes() == b"\0" * 100_000
    assert (tmp_path / "target" / "config.json").read_bytes() == b"{}"


def test_only_the_first_writer_creates_a_key(storage: Storage) -> None:
    assert storage.put_if_absent("lock", b"first")
    assert not storage.put_if_absent("lock", b"second")
    assert not storage.put_if_absent("lock", b"first")
    assert storage.read_bytes("lock") == b"first"


def test_of_many_writers_at_once_one_wins(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    contents = [str(index).encode() for index in range(16)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda content: storage.put_if_absent("lock", content), contents))
    assert won.count(True) == 1
    assert storage.read_bytes("lock") == contents[won.index(True)]
    assert storage.list() == ["lock"]


def test_a_file_system_without_hard_links_has_one_winner_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    storage = open_storage(tmp_path)
    assert storage.put_if_absent("lock", b"first")
    assert not storage.put_if_absent("lock", b"second")
    assert storage.read_bytes("lock") == b"first"


@pytest.mark.parametrize("key", ["", "/", "..", "../a", "a/../b", "/etc/passwd", "a\\b", "a\0b"])
def test_a_key_cannot_leave_its_folder(storage: Storage, key: str) -> None:
    with pytest.raises(ConfigError, match="is not a key below a folder"):
        storage.read_bytes(key)
    with pytest.raises(ConfigError):
        storage.write_bytes(key, b"")


def test_keys_are_normalised() -> None:
    assert safe_key("a//b/./c/") == "a/b/c"
    assert safe_key("a..b") == "a..b"


def test_other_schemes_are_refused() -> None:
    with pytest.raises(ConfigError, match="neither a folder nor s3://"):
        open_storage("gs://bucket/prefix")
    with pytest.raises(ConfigError, match="does not name a bucket"):
        open_storage("s3://")


def test_without_boto3_the_error_prints_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlvr\[s3\]'"):
        open_storage("s3://bucket/prefix")


def test_a_full_disk_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path)
    storage.write_bytes("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlatformError, match="No space left on device"):
        storage.write_bytes("a", b"new")
    assert storage.read_bytes("a") == b"old"
    assert storage.list() == ["a"]


def test_a_folder_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        open_storage(tmp_path / "file").write_bytes("a", b"")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOTCONN])
def test_a_temporarily_unavailable_shared_folder_is_retryable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage = open_storage(tmp_path)
    storage.write_bytes("checkpoints/a", b"")

    def away(path: Any, *args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number), str(path))

    for name in ("scandir", "stat", "open", "unlink"):
        monkeypatch.setattr(os, name, away)
    monkeypatch.setattr(io, "open", away)
    for act in (
        lambda: storage.read_bytes("checkpoints/a"),
        lambda: storage.exists("checkpoints/a"),
        lambda: storage.list("checkpoints"),
        lambda: storage.sizes("checkpoints"),
        lambda: storage.delete("checkpoints/a"),
        lambda: storage.download_file("checkpoints/a", Path("unused")),
    ):
        with pytest.raises(PlatformError, match=os.strerror(number)):
            act()


def test_a_file_that_may_not_be_read_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, *args: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(io, "open", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read .*name a folder that you may read"):
        open_storage(tmp_path).read_bytes("a")


def test_a_folder_that_vanishes_while_it_is_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path)
    for key in ("kept/a", "pruned/a"):
        storage.write_bytes(key, b"1234")
    scan = os.scandir

    def prune_first(path: Any) -> Any:
        if Path(path).name == "pruned":
            Path(path, "a").unlink()
            Path(path).rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", prune_first)
    assert storage.list() == ["kept/a"]


def test_a_file_that_vanishes_while_it_is_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(tmp_path)
    for key in ("kept", "pruned"):
        storage.write_bytes(key, b"1234")
    walk = os.walk

    def prune_then(*args: Any, **kwargs: Any) -> Any:
        entries = list(walk(*args, **kwargs))
        (tmp_path / "pruned").unlink()
        return entries

    monkeypatch.setattr(os, "walk", prune_then)
    assert storage.sizes() == {"kept": 4}


def test_a_folder_is_not_a_key(storage: Storage) -> None:
    storage.write_bytes("folder/file", b"")
    assert not storage.exists("folder")
    for key in ("folder", "folder/file/deeper"):
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(key)


def test_a_file_of_any_size_is_copied_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr_trainer.storage.folder.CHUNK_BYTES", 3)
    storage, source = open_storage(tmp_path / "root"), tmp_path / "source"
    source.write_bytes(b"0123456789")
    storage.upload_file(source, "weights")
    monkeypatch.setattr(storage, "read_bytes", None)
    storage.download_file("weights", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


def test_a_download_of_what_is_not_there_leaves_no_file(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.download_file("absent", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_download_to_a_full_disk_is_a_platform_error(storage: Storage, full_disk: Path) -> None:
    storage.write_bytes("weights", b"0123456789")
    with pytest.raises(PlatformError, match=r"/dev/full cannot be written .*free some space"):
        storage.download_file("weights", full_disk)


def test_a_text_goes_by_the_same_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name a folder that you may write to"):
        write_text(tmp_path / "file" / "recipe.json", "{}")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlatformError, match="free some space"):
        write_text(tmp_path / "recipe.json", "{}")


# --- S3's refusals


def test_a_bucket_that_does_not_exist_is_named(s3: str) -> None:
    storage = open_storage("s3://no-such-bucket/prefix")
    for act in (lambda: storage.write_bytes("a", b""), lambda: storage.list(),
                lambda: storage.read_bytes("a")):  # fmt: skip
        with pytest.raises(ConfigError, match="the bucket 'no-such-bucket' does not exist"):
            act()


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("AccessDenied", ConfigError, "access is denied; grant this identity s3:PutObject"),
        ("403", ConfigError, "access is denied"),
        ("InvalidAccessKeyId", ConfigError, "credentials are not valid"),
        ("PermanentRedirect", ConfigError, "in another region .* set AWS_DEFAULT_REGION"),
        ("AuthorizationHeaderMalformed", ConfigError, "in another region"),
        ("ExpiredToken", PlatformError, "credentials have expired .* try again"),
        ("ExpiredTokenException", PlatformError, "credentials have expired"),
        ("InvalidToken", PlatformError, "credentials have expired"),
        ("SlowDown", PlatformError, "try again later"),
        ("InternalError", PlatformError, "try again later"),
    ],
)
def test_a_refusal_says_what_to_do(
    s3: str, monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception], message: str
) -> None:
    storage: Any = open_storage(s3)

    def refuse(**kwargs: Any) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "injected"}}, "PutObject")

    monkeypatch.setattr(storage._client, "put_object", refuse)
    for act in (storage.write_bytes, storage.put_if_absent):
        with pytest.raises(error, match=message):
            act("a", b"")


@pytest.mark.parametrize(
    ("operation", "act", "action"),
    [
        ("delete_object", lambda storage: storage.delete("a"), "s3:DeleteObject"),
        ("head_object", lambda storage: storage.exists("a"), "s3:GetObject"),
        ("get_object", lambda storage: storage.read_bytes("a"), "s3:GetObject"),
    ],
)
def test_a_refusal_names_the_action_that_is_missing(
    s3: str,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    act: Callable[[Storage], object],
    action: str,
) -> None:
    storage: Any = open_storage(s3)
    storage.write_bytes("a", b"")
    monkeypatch.setattr(storage._client, operation, denied(operation))
    with pytest.raises(ConfigError, match=f"grant this identity {action} there"):
        act(storage)


def test_a_key_that_may_not_be_used_is_named_as_s3_names_it(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage: Any = open_storage(s3)
    storage.write_bytes("a", b"")
    said = "User: x is not authorized to perform: kms:Decrypt on resource: y"
    monkeypatch.setattr(storage._client, "get_object", denied("get_object", said))
    with pytest.raises(ConfigError, match="grant this identity kms:Decrypt there"):
        storage.read_bytes("a")


def test_a_missing_key_is_recognised_with_permission_to_list_some_prefixes_only(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage: Any = open_storage(s3)
    storage.write_bytes("a.json", b"")  # a key with the requested key as prefix
    for operation in ("get_object", "head_object"):
        monkeypatch.setattr(storage._client, operation, denied(operation))
    assert not storage.exists("a")
    for read in (storage.read_bytes, lambda key: storage.download_file(key, tmp_path / "a")):
        with pytest.raises(FileNotFoundError):
            read("a")
    assert list(tmp_path.iterdir()) == []


def test_an_identity_without_list_gets_the_error_of_the_read(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage: Any = open_storage(s3)
    for operation in ("get_object", "list_objects_v2"):
        monkeypatch.setattr(storage._client, operation, denied(operation))
    with pytest.raises(ConfigError, match="grant this identity s3:GetObject there"):
        storage.read_bytes("a")


def denied(operation: str, said: str = "Access Denied") -> Callable[..., None]:
    name = "".join(part.capitalize() for part in operation.split("_"))

    def refuse(**kwargs: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": said}}, name)

    return refuse


def test_a_transfer_that_failed_too_often_is_retryable(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage: Any = open_storage(s3)

    def give_up(*args: Any) -> None:
        raise RetriesExceededError(TimeoutError("read timed out"))

    monkeypatch.setattr(storage._client, "download_file", give_up)
    with pytest.raises(PlatformError, match=r"cannot be reached \(Max Retries Exceeded"):
        storage.download_file("weights", tmp_path / "weights")


def test_an_upload_that_is_refused_names_the_action(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    storage: Any = open_storage(s3)
    (tmp_path / "weights").write_bytes(b"")
    monkeypatch.setattr(storage._client, "put_object", denied("put_object"))
    with pytest.raises(ConfigError, match="grant this identity s3:PutObject there"):
        storage.upload_file(tmp_path / "weights", "weights")


def test_a_creation_whose_answer_was_lost_is_still_a_creation(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage: Any = open_storage(s3)
    storage.write_bytes("lock", b"mine")

    def refuse(**kwargs: Any) -> None:
        response = {
            "Error": {"Code": "PreconditionFailed"},
            "ResponseMetadata": {"RetryAttempts": 1},
        }
        raise ClientError(response, "PutObject")

    monkeypatch.setattr(storage._client, "put_object", refuse)
    assert storage.put_if_absent("lock", b"mine")
    assert not storage.put_if_absent("lock", b"other")


def test_a_conflicting_create_is_retried(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage: Any = open_storage(s3)
    put, conflicts = storage._client.put_object, iter(["ConditionalRequestConflict"] * 2)

    def sometimes(**kwargs: Any) -> None:
        if code := next(conflicts, None):
            raise ClientError({"Error": {"Code": code}}, "PutObject")
        put(**kwargs)

    monkeypatch.setattr(storage._client, "put_object", sometimes)
    assert storage.put_if_absent("lock", b"mine")
    assert storage.read_bytes("lock") == b"mine"


def test_a_server_that_cannot_be_reached_is_a_platform_error(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setattr("rlvr_trainer.storage.s3.MAX_ATTEMPTS", 1)
    with pytest.raises(PlatformError, match="cannot be reached"):
        open_storage(s3).read_bytes("a")


def test_missing_credentials_are_a_configuration_error(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ConfigError, match="credentials are missing"):
        open_storage(s3).read_bytes("a")


def test_s3_is_tried_ten_times_with_growing_pauses(s3: str) -> None:
    storage: Any = open_storage(s3)
    assert storage._client.meta.config.retries == {"mode": "standard", "total_max_attempts": 10}


# --- data from S3


def test_rows_can_come_from_s3(s3: str, tmp_path: Path) -> None:
    lines = [f'{{"question": "{i} + 1?", "answer": {i + 1}}}\n' for i in range(40)]
    open_storage(s3).write_bytes("rows.jsonl", "".join(lines).encode())

    def run(source: str) -> dict[str, Any]:
        recipe = parse_recipe(
            {
                "name": "test",
                "task": "question-answer",
                "model": {"name": "embedded:x"},
                "data": {"train": source},
            }
        )
        return prepare(recipe, tmp_path / "d", count_tokens=len)

    assert run(f"{s3}/rows.jsonl")["read"] == {"train": 40}
    assert load_rows(tmp_path / "d", "train")
    with pytest.raises(DataError, match=r"absent\.jsonl cannot be read"):
        run(f"{s3}/absent.jsonl")


def test_only_appended_content_is_read(storage: Storage) -> None:
    storage.write_bytes("log", b"one\ntwo\n")

    assert storage.read_from("log", 4) == b"two\n"
    assert storage.read_from("log", 8) == b""
    with pytest.raises(FileNotFoundError):
        storage.read_from("absent", 4)


def test_keys_are_listed_from_one_on(storage: Storage) -> None:
    for number in range(3):
        storage.write_bytes(f"parts/{number}", b"x")

    assert list(storage.sizes("parts", after="parts/1")) == ["parts/2"]


@pytest.fixture
def model_in_s3(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path / "cache"))
    storage = open_storage(f"{s3}/model")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        storage.write_bytes(name, name.encode())
    return storage


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the downloaded keys, in order."""
    keys: list[str] = []
    download = S3Storage.download_file

    def count(self: S3Storage, key: str, target: Path) -> None:
        keys.append(key)
        time.sleep(0.05)
        download(self, key, target)

    monkeypatch.setattr(S3Storage, "download_file", count)
    return keys


def test_a_model_in_s3_is_downloaded_once_for_all_ranks_of_a_node(
    model_in_s3: Storage, brought: list[str]
) -> None:
    model = ModelSection(name=model_in_s3.uri)
    with ThreadPoolExecutor(4) as ranks:  # each for the model and for its tokenizer
        folders = set(ranks.map(lambda _: locate_model(model), range(8)))

    assert brought == ["config.json", "model.safetensors", "tokenizer.json"]
    (folder,) = folders
    assert Path(folder, "model.safetensors").read_bytes() == b"model.safetensors"

    model_in_s3.write_bytes("model.safetensors", b"trained again")
    assert Path(locate_model(model), "model.safetensors").read_bytes() == b"trained again"
    assert Path(folder, "model.safetensors").read_bytes() == b"model.safetensors"


def test_a_pod_whose_cache_is_read_only_keeps_its_copy_in_its_temporary_folder(
    model_in_s3: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    folder = local_folder(model_in_s3.uri)

    assert folder.is_relative_to(tmp_path / "tmp")
    assert (folder / "config.json").is_file()


def test_a_partly_downloaded_model_in_s3_does_not_count(
    model_in_s3: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = S3Storage.download_file

    def broken(self: S3Storage, key: str, target: Path) -> None:
        if key == "tokenizer.json":
            raise PlatformError("the server cannot be reached")
        download(self, key, target)

    model = ModelSection(name=model_in_s3.uri)
    with monkeypatch.context() as patch:
        patch.setattr(S3Storage, "download_file", broken)
        with pytest.raises(PlatformError):
            locate_model(model)

    assert Path(locate_model(model), "tokenizer.json").is_file()


def test_a_model_that_is_not_in_s3_is_a_configuration_error(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"absent does not hold files; check the address"):
        locate_model(ModelSection(name=f"{s3}/absent"))


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({"AWS_REGION": "eu-central-1"}, "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-central-1"}, "eu-west-1"),
    ],
)
def test_the_region_is_read_by_either_of_its_names(
    s3: str, variables: dict[str, str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert S3Storage(s3)._client.meta.region_name == region
