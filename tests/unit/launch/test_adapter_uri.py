from pathlib import Path

import pytest

from rlvr_trainer.errors import PlatformError
from rlvr_trainer.launch.node_run_dir import RemoteCopy, SharedFolder
from rlvr_trainer.storage import open_storage
from rlvr_trainer.variables import ADAPTER_URI_VARIABLE


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the artifact that the pipeline expects the adapter in."""
    monkeypatch.setenv(ADAPTER_URI_VARIABLE, str(tmp_path / "artifact"))
    return tmp_path / "artifact"


def trained(path: Path) -> Path:
    (path / "adapter").mkdir(parents=True)
    (path / "adapter" / "weights").write_text("learnt")
    return path


def test_the_adapter_goes_where_the_pipeline_wants_it(tmp_path: Path, artifact: Path) -> None:
    kept = tmp_path / "kept"
    RemoteCopy(open_storage(kept), trained(tmp_path / "node"), 0).finish(required=True)

    assert (artifact / "weights").read_text() == "learnt"
    assert not kept.exists()


def test_one_node_of_a_shared_folder_sends_the_adapter(tmp_path: Path, artifact: Path) -> None:
    shared = open_storage(trained(tmp_path / "shared"))

    SharedFolder(shared, 1).finish(required=True)
    assert not artifact.exists()

    SharedFolder(shared, 0).finish(required=True)
    assert (artifact / "weights").read_text() == "learnt"


def test_an_adapter_that_is_not_there_cannot_be_sent(tmp_path: Path, artifact: Path) -> None:
    with pytest.raises(PlatformError, match="does not exist after training"):
        SharedFolder(open_storage(tmp_path), 0).finish(required=True)
