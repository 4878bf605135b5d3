"""Tests on a CUDA device, which run on request: `make test-gpu`.

They repeat comparisons of the unit and integration tests with a GPU's kernels. To test the tests,
`RLVR_GPU_TESTS_ON=cpu` runs them on a CPU, on the same path except for the kernels.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from tests.small_model import save_tiny_llama, small_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `unit` and `integration`

from unit.shared_prefix.conftest import run_as_on_a_gpu

ON_CPU = os.environ.get("RLVR_GPU_TESTS_ON") == "cpu"


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    if not (torch.cuda.is_available() or ON_CPU):
        pytest.skip("needs a CUDA device")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if ON_CPU:
        run_as_on_a_gpu(monkeypatch)
        return torch.device("cpu")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random Llama of two layers with the repository's own tokenizer."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny-model"), small_tokenizer())
