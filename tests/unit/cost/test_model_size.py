from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr_components.cost.model_size import num_parameters
from rlvr_trainer.recipe.schema import ModelSection


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.5e9),
        ("embedded:smollm2-135m-instruct", 135e6),
        ("meta-llama/Llama-3.1-8B", 8e9),
        ("google/gemma-2-2b-it", 2e9),
        ("Qwen/Qwen3-30B-A3B", 30e9),
        ("Qwen/Qwen2.5-7B-Instruct-1M", 7e9),
        ("s3://bucket/models/Qwen2.5-1.5B/", 1.5e9),
        ("openai-community/gpt2", None),
        ("microsoft/Phi-3-mini-128k-instruct", None),
    ],
)
def test_a_name_states_the_size(name: str, expected: float | None) -> None:
    revision = "0" * 40 if ModelSection.model_construct(name=name).is_hub_id else ""
    assert num_parameters(ModelSection(name=name, revision=revision)) == expected


def test_the_files_of_a_model_tell_its_size(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "BF16", "shape": [7, 3], "data_offsets": [0, 42]},
            "b": {"dtype": "BF16", "shape": [5], "data_offsets": [42, 52]},
        }
    ).encode()
    for shard in ("1", "2"):
        content = len(header).to_bytes(8, "little") + header
        (tmp_path / f"model-{shard}.safetensors").write_bytes(content)
    assert num_parameters(ModelSection(name=str(tmp_path))) == 2 * (7 * 3 + 5)


def test_a_damaged_model_has_no_size(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert num_parameters(ModelSection(name=str(tmp_path))) is None
