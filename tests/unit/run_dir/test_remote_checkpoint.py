"""Commit checkpoints of nodes with their own disks to one storage (a folder in place of S3)."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.errors import CheckpointError, ConfigError, PlatformError
from rlvr_trainer.run_dir import checkpoint, remote_checkpoint
from rlvr_trainer.storage import LocalStorage, Storage


class Gathering:
    """A fake of all_gather_object between threads."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size)
        self._values: list[Any] = [None] * size

    def of(self, rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            self._values[rank] = value
            self._barrier.wait(5)
            values = list(self._values)
            self._barrier.wait(5)
            return values

        return gather


def save(root: Path, step: int, *, storages: list[Storage] | None = None) -> list[Any]:
    """Stage files on two nodes and commit them; return each node's result or exception."""
    gathering, results = Gathering(2), [None, None]
    storages = storages or [LocalStorage(root / "s3"), LocalStorage(root / "s3")]

    def node(rank: int, storage: Storage) -> None:
        staged = root / f"disk-{rank}" / f"checkpoint-{step}"
        shutil.rmtree(staged, ignore_errors=True)
        (staged / "shards").mkdir(parents=True)
        (staged / "shards" / f"rank-{rank}").write_text(f"{step} {rank}")
        (staged / "both").write_text(f"of node {rank}")
        try:
            results[rank] = remote_checkpoint.upload(
                staged,
                checkpoint.describe(staged),
                storage,
                gathering.of(rank),
                rank=rank,
                step=step,
                world_size=2,
            )
        except Exception as error:
            results[rank] = error

    threads = [
        threading.Thread(target=node, args=(rank, storage)) for rank, storage in enumerate(storages)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def download(root: Path) -> checkpoint.Checkpoint | None:
    return remote_checkpoint.download_newest(LocalStorage(root / "s3"), root / "fresh")


def test_a_checkpoint_holds_the_files_of_all_nodes(tmp_path: Path) -> None:
    first, second = save(tmp_path, 10)
    assert first == second
    newest = download(tmp_path)
    assert newest is not None
    assert (newest.step, newest.world_size) == (10, 2)
    assert (newest.path / "shards" / "rank-0").read_text() == "10 0"
    assert (newest.path / "shards" / "rank-1").read_text() == "10 1"
    assert (newest.path / "both").read_text() == "of node 0"
    assert checkpoint.newest(tmp_path / "fresh") == newest


def test_another_attempt_at_a_step_never_mixes_with_the_first(tmp_path: Path) -> None:
    assert save(tmp_path, 10)[0] != save(tmp_path, 10)[0]
    assert remote_checkpoint.committed_step(LocalStorage(tmp_path / "s3")) == 10


def test_training_starts_from_the_beginning_where_nothing_was_committed(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)[0]
    (tmp_path / "s3" / folder / checkpoint.MARKER).unlink()
    assert download(tmp_path) is None
    assert remote_checkpoint.committed_step(LocalStorage(tmp_path / "s3")) == 0


@pytest.mark.parametrize("damage", ["flip", "remove", "marker"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 10)
    damaged = tmp_path / "s3" / save(tmp_path, 20)[0]
    match damage:
        case "flip":
            (damaged / "both").write_text("of node 7")
        case "remove":
            (damaged / "both").unlink()
        case "marker":
            (damaged / checkpoint.MARKER).write_text("{")
    newest = download(tmp_path)
    assert newest is not None
    assert newest.step == 10
    assert not (tmp_path / "fresh" / "step-20").exists()


def test_training_does_not_restart_silently_when_all_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "s3" / save(tmp_path, 10)[0] / "both").write_text("other")
    with pytest.raises(CheckpointError, match="are damaged"):
        download(tmp_path)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "s3" / save(tmp_path, 10)[0] / checkpoint.MARKER
    tree = json.loads(marker.read_text())
    marker.write_text(json.dumps({**tree, "files": {"../../out": tree["files"]["both"]}}))
    with pytest.raises(ConfigError, match="write a relative path"):
        download(tmp_path)


class Refusing(LocalStorage):
    """Storage that fails on every write."""

    def upload_file(self, source: Path, key: str) -> None:
        raise PlatformError("no network")


def test_no_node_waits_for_one_that_cannot_upload(tmp_path: Path) -> None:
    good, bad = LocalStorage(tmp_path / "s3"), Refusing(tmp_path / "s3")
    first, second = save(tmp_path, 10, storages=[good, bad])
    assert str(second) == "no network"
    assert "another node failed to commit a checkpoint: no network" in str(first)
    assert download(tmp_path) is None


def test_pruning_keeps_the_newest_and_what_is_being_written(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "s3")
    for step in (10, 20, 30):
        save(tmp_path, step)
    storage.write_bytes("checkpoints/step-20.attempt-cut/file", b"")
    storage.write_bytes("checkpoints/step-40.attempt-now/file", b"")
    remote_checkpoint.prune(storage, keep=2)
    folders = {key.split("/")[1].partition(".attempt-")[0] for key in storage.list("checkpoints")}
    assert folders == {"step-20", "step-30", "step-40"}
    assert not storage.list("checkpoints/step-20.attempt-cut")


def test_an_identity_that_may_not_delete_keeps_all(tmp_path: Path) -> None:
    class Kept(LocalStorage):
        def delete(self, key: str) -> None:
            raise ConfigError("access is denied")

    for step in (10, 20):
        save(tmp_path, step)
    remote_checkpoint.prune(Kept(tmp_path / "s3"), keep=1)
    assert len(list((tmp_path / "s3" / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("verb", ["list", "read_bytes", "delete"])
@pytest.mark.parametrize("error", [PlatformError("no network"), FileNotFoundError("just pruned")])
def test_an_outage_while_pruning_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, error: Exception
) -> None:
    def fail(self: LocalStorage, key: str) -> None:
        raise error

    for step in (10, 20):
        save(tmp_path, step)
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, verb, fail)
        remote_checkpoint.prune(LocalStorage(tmp_path / "s3"), keep=1)
    assert len(list((tmp_path / "s3" / "checkpoints").iterdir())) == 2
