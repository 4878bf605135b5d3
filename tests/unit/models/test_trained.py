"""Load, evaluate and publish the results of a training: an adapter or all weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from rlvr_trainer import api
from rlvr_trainer.errors import ConfigError, Diverged
from rlvr_trainer.models import load_adapter, load_model, load_tokenizer, load_trained
from rlvr_trainer.publishing import publish
from rlvr_trainer.recipe.reader import load_recipe
from rlvr_trainer.recipe.schema import Recipe

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def recipe_for(name: object, *overrides: str) -> Recipe:
    return load_recipe(
        "arithmetic",
        [
            f"model.name={name}",
            "model.dtype=fp32",
            "data={num_train_rows: 40, num_test_rows: 4, num_exemplars: 2}",
            "prompt.num_shots=0",
            "sampling.max_completion_tokens=4",
            *overrides,
        ],
    )


def save_adapter(model_dir: Path, folder: Path, **options: Any) -> Path:
    recipe = recipe_for(model_dir)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **options)
    get_peft_model(load_model(recipe.model), config).save_pretrained(folder)
    load_tokenizer(recipe.model).save_pretrained(folder)
    return folder


def run_dir_of(recipe: Recipe, trained: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    shutil.copytree(trained, folder / "adapter")
    return folder


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return save_adapter(tiny_model_dir, tmp_path / "adapter")


def cut_short(adapter: Path) -> None:
    weights = adapter / ADAPTER_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])


def not_json(adapter: Path) -> None:
    (adapter / ADAPTER_CONFIG).write_text('{"r": 2,')


def of_another_kind(adapter: Path) -> None:
    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config | {"peft_type": "NOPE"}))


def of_another_size(adapter: Path) -> None:
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    save_file(
        {name: torch.cat([w, w], -1) for name, w in weights.items()}, adapter / ADAPTER_WEIGHTS
    )


def of_fewer_layers(adapter: Path) -> None:
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    kept = {name: w for name, w in weights.items() if ".layers.0." in name}
    save_file(kept, adapter / ADAPTER_WEIGHTS)


def of_more_layers(adapter: Path) -> None:
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    more = {
        name.replace(".0.", ".9."): w.clone() for name, w in weights.items() if ".layers.0." in name
    }
    save_file(weights | more, adapter / ADAPTER_WEIGHTS)


def without_weights(adapter: Path) -> None:
    (adapter / ADAPTER_WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (cut_short, "cannot be loaded .* it is damaged"),
        (not_json, "cannot be loaded .* it is damaged"),
        (of_another_kind, "cannot be loaded .* it is damaged"),
        (of_another_size, "cannot be loaded .*size mismatch.* or was trained on another model"),
        (of_fewer_layers, "trained on another model: 2 tensors .*layers.1"),
        (of_more_layers, "trained on another model: 2 tensors .*layers.9"),
        (without_weights, "does not hold an adapter .adapter_model.safetensors"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    change: Any, complaint: str, adapter: Path, tiny_model_dir: Path
) -> None:
    change(adapter)
    with pytest.raises(ConfigError, match=complaint):
        load_adapter(load_model(recipe_for(tiny_model_dir).model), adapter)


@pytest.mark.parametrize("lora", [True, False])
def test_an_evaluation_of_weights_that_hold_nan_says_so(
    lora: bool, adapter: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = adapter if lora else Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    file = folder / (ADAPTER_WEIGHTS if lora else "model.safetensors")
    weights = load_file(file)
    weights[next(iter(weights))].fill_(float("nan"))
    save_file(weights, file, {"format": "pt"})
    recipe = recipe_for(tiny_model_dir if lora else folder)
    api.prepare(recipe, tmp_path / "data")
    advice = "lower training.learning_rate" if lora else "check the weights of model.name"
    with pytest.raises(Diverged, match=f"not finite .* from test-.*{advice}"):
        api.evaluate(
            recipe,
            tmp_path / "data",
            tmp_path / "out",
            label="after" if lora else "before",
            adapter_dir=adapter if lora else None,
        )
    assert not (tmp_path / "out" / "samples.jsonl").exists()


def test_all_weights_are_evaluated_and_published_from_a_relative_path(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_for(tiny_model_dir, "lora=null")
    run_dir = run_dir_of(recipe, tiny_model_dir, Path("run"))
    assert load_trained(recipe, run_dir / "adapter").dtype == torch.float32
    for merge in (True, False):
        target = publish(run_dir, Path(f"published-{merge}"), merge=merge)
        card = (target / "README.md").read_text()
        assert f"All weights of `{tiny_model_dir.name}`" in card
        assert "LoRA" not in card
        assert "library_name: transformers" in card
        load_model(recipe.model.model_copy(update={"name": str(target.resolve())}))


def test_a_folder_that_may_not_be_written_is_a_mistake_and_not_retried(
    adapter: Path, tmp_path: Path
) -> None:
    run_dir = run_dir_of(recipe_for("s3://bucket/m"), adapter, tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/model cannot be written .*; name a folder"):
        publish(run_dir, tmp_path / "file" / "model", merge=False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embedded:smollm2-135m-instruct", "embedded:smollm2-135m-instruct"),
        ("s3://bucket/models/m", "s3://bucket/models/m"),
        ("/home/someone/models/m", "m"),
    ],
)
def test_a_published_adapter_names_no_path_of_this_machine(
    name: str, expected: str, adapter: Path, tmp_path: Path
) -> None:
    assert str(tmp_path.parent) in (adapter / ADAPTER_CONFIG).read_text()
    recipe = recipe_for(name)
    target = publish(run_dir_of(recipe, adapter, tmp_path / "run"), tmp_path / "out", merge=False)
    config = json.loads((target / ADAPTER_CONFIG).read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (expected, 2)
    assert f"A LoRA adapter of `{expected}`" in (target / "README.md").read_text()


def test_a_published_adapter_of_a_hub_model_names_its_commit(adapter: Path, tmp_path: Path) -> None:
    recipe = recipe_for("Qwen/Qwen2.5-0.5B", "model.revision=abc")
    target = publish(run_dir_of(recipe, adapter, tmp_path / "run"), tmp_path / "out", merge=False)
    config = json.loads((target / ADAPTER_CONFIG).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("Qwen/Qwen2.5-0.5B", "abc")
