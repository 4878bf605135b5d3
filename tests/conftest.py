from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.small_model import save_tiny_llama

from rlvr_trainer.recipe.schema import ModelSection

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes that share the cores; two threads each would spend them waiting for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """The embedded model, converted once into the user's cache as a run would do it."""
    from rlvr_trainer.models import locate_model

    return Path(locate_model(ModelSection(name="embedded:smollm2-135m-instruct")))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory, smollm2_dir: Path) -> Path:
    """A random Llama of two layers with the embedded model's tokenizer: real code, no learning."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-model"), tokenizer)


@pytest.fixture
def full_disk() -> Path:
    """A file that takes nothing. Linux has one; elsewhere these tests are skipped."""
    path = Path("/dev/full")
    if not path.exists():
        pytest.skip("this system has no /dev/full")
    return path


@pytest.fixture
def events_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that this test's events go to."""
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("RLVR_EVENTS", str(path))
    return path
