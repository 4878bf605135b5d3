"""Map any exception to one of ours; a transient one is retried."""

from __future__ import annotations

import errno
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rlvr_components.steps.step_process import attempt
from rlvr_pipelines.cli.exit import ErrorGroup
from rlvr_trainer import __main__
from rlvr_trainer.error_mapping import to_rlvr_error
from rlvr_trainer.errors import CheckpointError, ConfigError, PlatformError, RLVRError
from rlvr_trainer.launch import pod
from rlvr_trainer.launch.attempt_budget import Attempts
from rlvr_trainer.launch.rank_outcomes import read_rank_ends
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import ModelSection
from rlvr_trainer.recipe.trajectory import TRAINER_STATE, is_last
from rlvr_trainer.run_dir import checkpoint
from rlvr_trainer.variables import RANK_ENDS_VARIABLE

REVISION = "a" * 40


def raised(action: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (the type is the library's)
        action()
    return caught.value


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 200 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def torch_save(folder: Path) -> None:
    import torch

    torch.save({"weight": torch.zeros(200_000)}, folder / "optimizer.pt")


def torch_save_to_a_file(folder: Path) -> None:
    import torch

    with (folder / "optimizer.pt").open("wb") as file:
        torch.save({"weight": torch.zeros(200_000)}, file)


def torch_save_as_deepspeed_may(folder: Path) -> None:
    import torch

    torch.save(
        {"weight": torch.zeros(200_000)},
        folder / "optimizer.pt",
        _use_new_zipfile_serialization=False,
    )


def safetensors_save(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(200_000)}, folder / "model.safetensors")


def tokenizer_save(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({f"word{i}": i for i in range(20_000)}, "word0")).save(
        str(folder / "tokenizer.json")
    )


def copy_of_an_adapter(folder: Path) -> None:
    source = folder.parent / "adapter"
    source.mkdir()
    (source / "adapter_model.safetensors").write_bytes(bytes(400_000))
    shutil.copytree(source, folder / "adapter")


@pytest.mark.parametrize(
    "write",
    [
        torch_save,
        torch_save_to_a_file,
        torch_save_as_deepspeed_may,
        safetensors_save,
        tokenizer_save,
        copy_of_an_adapter,
    ],
)
def test_a_full_disk_is_retryable_for_every_writer(
    write: Callable[[Path], None], small_disk: Path
) -> None:
    error = to_rlvr_error(raised(lambda: write(small_disk)), small_disk)

    assert isinstance(error, PlatformError)
    assert str(small_disk) in str(error)
    assert "free some space" in str(error)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
def test_a_full_or_missing_disk_ends_all_processes_alike(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number), "/runs/x")

    monkeypatch.setenv(RANK_ENDS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(__main__, "_train", fail)
    assert __main__.main(["train", "--run-dir", str(tmp_path)]) == 138
    (end,) = read_rank_ends(tmp_path)
    assert (end.exit_code, end.cause[:7]) == (138, "/runs/x")

    monkeypatch.setattr(Attempts, "begin", fail)
    assert pod.launch(pod.Options(str(tmp_path))) == 138

    with pytest.raises(SystemExit) as ended, attempt("train"):
        fail()
    assert ended.value.code == 138

    result = CliRunner().invoke(ErrorGroup(commands=[click.Command("run", callback=fail)]), "run")
    assert (result.exit_code, "error: /runs/x" in result.output) == (138, True)


def test_an_unexpected_exception_is_permanent() -> None:
    error = to_rlvr_error(KeyError("lost"))

    assert type(error) is RLVRError
    assert str(error) == "unexpected KeyError: 'lost'; the log has its traceback"
    assert to_rlvr_error(RuntimeError("shape '[2, 3]' is invalid")).exit_code == 1
    assert to_rlvr_error(PermissionError(errno.EACCES, "Permission denied", "/x")).exit_code == 1


def test_a_checkpoint_that_a_disk_does_not_give_now_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = checkpoint.staging_dir(tmp_path) / "checkpoint-2"
    staged.mkdir()
    (staged / "weights").write_bytes(b"weights")
    (staged / TRAINER_STATE).write_text("{}")
    path = checkpoint.commit(staged, tmp_path, step=2, world_size=1).path

    def stale(*_: object, **__: object) -> str:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "read_text", stale)
    with pytest.raises(PlatformError, match="Stale file handle"):
        checkpoint.newest(tmp_path)
    with pytest.raises(PlatformError, match="Stale file handle"):
        is_last(path, load_recipe("arithmetic"))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ],
)
def test_a_network_failure_is_retryable(error: Exception) -> None:
    assert isinstance(to_rlvr_error(error), PlatformError)


def exit_codes_with_a_hub(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, *, offline: bool = False
) -> list[int]:
    """Return the exit codes of loading a model and a data set from the hub at `endpoint`."""
    import datasets
    import huggingface_hub

    from rlvr_trainer.data.sources import read_source
    from rlvr_trainer.models import load_tokenizer

    constants = huggingface_hub.constants
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the hub's own attempts
    errors = [
        raised(lambda: load_tokenizer(ModelSection(name="owner/model", revision=REVISION))),
        raised(lambda: list(read_source(f"hub://owner/rows@{REVISION}", "train"))),
    ]
    return [to_rlvr_error(error).exit_code for error in errors]


class _Hub(http.server.BaseHTTPRequestHandler):
    status = 404

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Code", "RepoNotFound")
        body = json.dumps({"error": "no"}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """Serve an empty hub and yield its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_unreachable_hub_is_retryable(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_codes_with_a_hub("http://127.0.0.1:9", monkeypatch) == [138, 138]
    # a repository that does not exist, or is not allowed, stays an error of the recipe
    assert exit_codes_with_a_hub(hub, monkeypatch) == [2, 3]
    assert exit_codes_with_a_hub(hub, monkeypatch, offline=True) == [2, 3]


def test_our_own_errors_stay_as_they_are() -> None:
    for error in (ConfigError("a"), CheckpointError("b")):
        assert to_rlvr_error(error) is error
