"""A recipe that does not fit its model is refused before anything is loaded or evaluated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlvr_trainer.api import prepare
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.models import check_loaded, load_model, load_tokenizer
from rlvr_trainer.models.facts import EMBEDDED_FACTS, facts_in, num_positions
from rlvr_trainer.models.fit import check_fit, check_local_model
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe


def recipe_for(folder: Path, *overrides: str) -> Recipe:
    return load_recipe("arithmetic", [f"model.name={folder}", "model.dtype=fp32", *overrides])


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """Copy the tiny model, so that a test may change it."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def assert_refused(recipe: Recipe, complaint: str) -> None:
    """Assert that the check by files refuses, and loading the model too."""
    with pytest.raises(ConfigError, match=complaint):
        check_local_model(recipe)
    with pytest.raises(ConfigError, match=complaint):
        check_loaded(recipe, load_model(recipe.model), load_tokenizer(recipe.model))


def test_a_recipe_that_fits_passes(tiny_model_dir: Path) -> None:
    recipe = recipe_for(tiny_model_dir)
    check_local_model(recipe)
    check_loaded(recipe, load_model(recipe.model), load_tokenizer(recipe.model))


@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        ("nope", "names nope, .* no such linear layers; choose from down_proj, gate_proj, k_proj"),
        ("q_proj, v_prj, w", r"names v_prj, w, .* \(did you mean 'v_proj'\?\)"),
        ("proj", "names proj, "),
        ("self_attn", "names self_attn, "),
        ("input_layernorm", "names input_layernorm, "),
    ],
)
def test_an_adapter_is_for_linear_layers_that_are_there(
    targets: str, complaint: str, tiny_model_dir: Path
) -> None:
    assert_refused(recipe_for(tiny_model_dir, f"lora.target_modules=[{targets}]"), complaint)


@pytest.mark.parametrize("targets", ["q_proj", "self_attn.q_proj", "model.layers.1.mlp.up_proj"])
def test_a_layer_is_named_by_the_end_of_its_name(targets: str, tiny_model_dir: Path) -> None:
    check_local_model(recipe_for(tiny_model_dir, f"lora.target_modules=[{targets}]"))


def test_a_context_ends_with_the_models_positions(model_dir: Path) -> None:
    change_config(model_dir, max_position_embeddings=1024)
    complaint = "context_length = 2048, but .* has 1024 positions; lower it to 1024"
    assert_refused(recipe_for(model_dir), complaint)
    check_local_model(recipe_for(model_dir, "model.context_length=1024"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        ({}, None),
    ],
)
def test_scaled_positions_reach_further(config: dict[str, object], expected: int | None) -> None:
    assert num_positions(config) == expected


def test_every_token_has_an_embedding(model_dir: Path) -> None:
    tokenizer = load_tokenizer(recipe_for(model_dir).model)
    num_rows = len(tokenizer)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(model_dir)
    complaint = f"ids up to {num_rows + 1}, but the model's embedding has {num_rows} rows"
    assert_refused(recipe_for(model_dir), complaint)


def test_a_model_with_code_of_its_own_is_refused_without_a_question(model_dir: Path) -> None:
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change_config(model_dir, model_type="own-model", auto_map=auto_map)
    recipe = recipe_for(model_dir)
    complaint = "its own code .* is not run; use a model that transformers implements"
    with pytest.raises(ConfigError, match=complaint):
        check_local_model(recipe)
    with pytest.raises(ConfigError, match=complaint):
        load_model(recipe.model)


def test_code_beside_a_model_that_transformers_knows_is_left_aside(model_dir: Path) -> None:
    change_config(model_dir, auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    recipe = recipe_for(model_dir)
    check_local_model(recipe)
    assert isinstance(load_model(recipe.model), LlamaForCausalLM)


def test_other_layouts_of_a_model_are_read(tmp_path: Path) -> None:
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=50, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    facts = facts_in(tmp_path)
    assert (facts.num_positions, facts.num_embeddings, facts.num_tokens) == (64, 50, None)
    recipe = recipe_for(
        tmp_path, "lora.target_modules=[c_attn]", "model.context_length=64",
        "sampling.max_completion_tokens=8",
    )  # fmt: skip
    check_fit(recipe, facts)


def test_the_embedded_models_facts_are_known_without_a_conversion(smollm2_dir: Path) -> None:
    converted, known = facts_in(smollm2_dir), EMBEDDED_FACTS["smollm2-135m-instruct"]
    assert converted.linear_layers is not None
    assert known.linear_layers == converted.linear_layers - {"model.embed_tokens", "lm_head"}
    for name in (
        *("num_positions", "num_embeddings", "num_tokens"),
        *("chat_template", "special_tokens"),
    ):
        assert getattr(known, name) == getattr(converted, name)


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"eos_token": {"content": "</s>"}}}, ""),
        ({"tokenizer_config.json": {"chat_template": "{{ 1 }}"}}, "{{ 1 }}"),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "a"}]}},
            "a",
        ),
        ({"tokenizer_config.json": {"chat_template": "a"}, "chat_template.jinja": "b"}, "b"),
    ],
)
def test_a_models_template_is_known_by_its_files(
    files: dict[str, object], template: str | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
    assert facts_in(tmp_path).chat_template == template


def test_a_token_is_known_by_its_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')
    assert facts_in(tmp_path).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_the_data_step_refuses_before_reading_a_row(tiny_model_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_for(tiny_model_dir, "lora.target_modules=[nope]")
    with pytest.raises(ConfigError, match="no such linear layers"):
        prepare(recipe, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_check_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import rlvr_trainer.models.fit; import rlvr_pipelines.pipeline.run_plan;"
        "assert not {'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_damaged_weights_are_left_to_their_loading(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    assert facts_in(tmp_path).linear_layers is None
