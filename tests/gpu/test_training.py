"""Trainings on a GPU: TRL's trainer and ours, and a run directory from data to adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration.shared_prefix_training import (
    Case,
    assert_trains_as_trl_does,
    character_model,
    name_of,
    pairwise_cases,
)
from integration.test_shared_prefix_trainer import MATRIX, SIMPLE, assert_ranks_train_as_trl_does
from integration.test_training import prepared_run, recipe_for, rewards_of, train

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return character_model(tmp_path_factory.mktemp("characters"))


@pytest.mark.parametrize("case", pairwise_cases(MATRIX), ids=name_of)
def test_it_trains_as_trl_does(
    case: Case, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    assert_trains_as_trl_does(case, model_dir, tmp_path)


@pytest.mark.parametrize("weights", ["lora", "qlora"])
def test_one_rank_under_zero_3_trains_as_trl_does(
    weights: str, model_dir: Path, tmp_path: Path
) -> None:
    cases = [
        SIMPLE | {"zero": 3, "weights": weights, "checkpointing": checkpointing}
        for checkpointing in ("reentrant", "non-reentrant")
    ]
    assert_ranks_train_as_trl_does(cases, model_dir, tmp_path, num_steps=2, num_ranks=1)


@pytest.mark.parametrize("quantization", ["null", "{compute_dtype: bf16, storage_dtype: bf16}"])
def test_a_run_trains_in_bf16(quantization: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """The training fails if the packed pass differs from the plain one or the adapter stays."""
    recipe = recipe_for(
        tiny_model_dir,
        tmp_path,
        "model.dtype=bf16",
        f"quantization={quantization}",
        "training.gradient_checkpointing=true",
    )
    run_dir = prepared_run(recipe, tmp_path / "run")
    train(run_dir)
    assert len(rewards_of(run_dir)) == 2
    assert (run_dir / "adapter" / "adapter_model.safetensors").exists()
    assert "Shared prefixes are not used" not in (run_dir / "train.log").read_text()
