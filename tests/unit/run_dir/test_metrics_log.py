"""Append to metrics.jsonl and read it incrementally, in S3 too (moto's server, a fake)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr_trainer.errors import PlatformError
from rlvr_trainer.run_dir.metrics_log import MetricsFollower, MetricsSender, read_metrics
from rlvr_trainer.storage import LocalStorage, S3Storage, open_storage


@pytest.fixture
def storage(s3: str) -> S3Storage:
    return S3Storage(s3)


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_only_new_content_is_sent_and_read(
    storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    write = S3Storage.write_bytes

    def count(self: S3Storage, key: str, content: bytes) -> None:
        sent.append(content)
        write(self, key, content)

    monkeypatch.setattr(S3Storage, "write_bytes", count)
    read: list[bytes] = []
    read_from = S3Storage.read_from

    def count_read(self: S3Storage, key: str, offset: int) -> bytes:
        read.append(read_from(self, key, offset))
        return read[-1]

    monkeypatch.setattr(S3Storage, "read_from", count_read)
    file = tmp_path / "metrics.jsonl"
    sender, follower = MetricsSender(file, storage), MetricsFollower(storage)
    sender.send()
    assert follower.new_lines() == []

    followed: list[bytes] = []
    for number in range(20):
        append(file, f"line {number}")
        with file.open("a") as half:
            half.write("half")
        sender.send()
        file.write_text(file.read_text().removesuffix("half"))
        followed += follower.new_lines()
    assert followed == [b"line %d" % number for number in range(20)]
    assert sent == [line + b"\n" for line in followed]
    assert b"".join(read) == file.read_bytes()

    sender.join()
    assert follower.new_lines() == []
    assert storage.read_bytes("metrics.jsonl") == read_metrics(storage) == file.read_bytes()


def test_another_attempt_appends_to_what_was_sent(storage: S3Storage, tmp_path: Path) -> None:
    follower = MetricsFollower(storage)
    for attempt in range(3):
        file = tmp_path / str(attempt)
        sender = MetricsSender(file, storage)
        sender.fetch()
        append(file, f"{attempt} a")
        sender.send()
        append(file, f"{attempt} b")
        if attempt != 1:  # the first attempt was killed
            sender.join()

    expected = [b"0 a", b"0 b", b"1 a", b"2 a", b"2 b"]
    assert read_metrics(storage).splitlines() == expected
    assert follower.new_lines() == expected


def test_a_piece_that_is_sent_again_with_more_is_read_once(
    storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.jsonl"
    sender, follower = MetricsSender(file, storage), MetricsFollower(storage)
    append(file, "first")
    sender.send()
    append(file, "second")
    write = S3Storage.write_bytes

    def lost(self: S3Storage, key: str, content: bytes) -> None:
        write(self, key, content)
        raise PlatformError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(S3Storage, "write_bytes", lost)
        with pytest.raises(PlatformError):
            sender.send()
    assert follower.new_lines() == [b"first", b"second"]
    append(file, "third")
    sender.send()

    assert follower.new_lines() == [b"third"]


def test_a_local_file_is_followed_too(tmp_path: Path) -> None:
    follower = MetricsFollower(open_storage(tmp_path))
    assert isinstance(open_storage(tmp_path), LocalStorage)
    append(tmp_path / "metrics.jsonl", "one")
    assert follower.new_lines() == [b"one"]
    append(tmp_path / "metrics.jsonl", "two", "three")
    assert follower.new_lines() == [b"two", b"three"]
    assert follower.new_lines() == []
