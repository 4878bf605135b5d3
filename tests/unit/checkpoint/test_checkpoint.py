from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr_trainer.errors import CheckpointError, PlatformError
from rlvr_trainer.run_dir import checkpoint


def save(checkpoints: Path, step: int, content: str = "weights") -> checkpoint.Checkpoint:
    staged = checkpoint.staging_dir(checkpoints) / f"checkpoint-{step}"
    (staged / "nested").mkdir(parents=True)
    (staged / "adapter.bin").write_text(f"{content} {step}")
    (staged / "nested" / "state.json").write_text("{}")
    return checkpoint.commit(staged, checkpoints, step=step, world_size=1)


def test_training_starts_anew_where_nothing_was_committed(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "absent") is None
    staged = checkpoint.staging_dir(tmp_path) / "checkpoint-5"
    staged.mkdir()
    (staged / "adapter.bin").write_text("half")
    assert checkpoint.newest(tmp_path) is None


def test_the_newest_committed_checkpoint_is_continued_from(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, step)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert (newest.step, newest.path.name) == (100, "step-100")


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "marker", "unmark"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20).path
    file, marker = newest / "adapter.bin", newest / checkpoint.MARKER
    match damage:
        case "truncate":
            file.write_text("w")
        case "flip":
            file.write_text("Weights 20")
        case "remove":
            file.unlink()
        case "marker":
            marker.write_text(marker.read_text()[:40])
        case "unmark":
            marker.unlink()
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.step == 10


def test_training_never_starts_anew_in_silence_when_all_are_damaged(tmp_path: Path) -> None:
    for step in (10, 20):
        (save(tmp_path, step).path / "adapter.bin").write_text("other")
    with pytest.raises(CheckpointError, match="step-20, step-10 are damaged"):
        checkpoint.newest(tmp_path)


def test_an_interrupted_commit_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_durably", _killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 20)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.step == 10
    assert save(tmp_path, 20).step == 20  # and the same step can be committed again


def _killed(path: Path, text: str) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_is_a_platform_error_that_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    save(tmp_path, 10)
    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(PlatformError, match=r"step-20 cannot be written \(No space left"):
        save(tmp_path, 20)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.step == 10


def test_pruning_keeps_the_newest_and_removes_what_was_not_committed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)
    (tmp_path / "step-40").mkdir()
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-20", "step-30"]


def test_the_marker_says_what_was_written(tmp_path: Path) -> None:
    path = save(tmp_path, 10).path
    marker = json.loads((path / checkpoint.MARKER).read_text())
    assert marker["step"] == 10
    assert set(marker["files"]) == {"adapter.bin", "nested/state.json"}
    assert marker["files"]["adapter.bin"]["bytes"] == len("weights 10")
