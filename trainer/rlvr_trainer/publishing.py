"""Publish what a run trained: an adapter, the merged model or all weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlvr_trainer.errors import ConfigError
from rlvr_trainer.evaluation.comparison_tables import shots_table
from rlvr_trainer.evaluation.outcome import count
from rlvr_trainer.models import load_adapter, load_model, load_tokenizer
from rlvr_trainer.models.load import ADAPTER_CONFIG
from rlvr_trainer.recipe.schema import EMBEDDED_PREFIX, ModelSection, Recipe
from rlvr_trainer.run_dir.layout import ADAPTER, EVALUATION, RECIPE, read_recipe
from rlvr_trainer.storage.atomic_files import disk_error
from rlvr_trainer.tables import markdown

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def publish(run_dir: Path, output_dir: Path, *, merge: bool) -> Path:
    """Write the adapter of `run_dir`, the merged model or all weights, with a card.

    Raises ConfigError, PlatformError.
    """
    recipe, adapter_dir = read_recipe(run_dir), run_dir / ADAPTER
    if not (adapter_dir / "tokenizer.json").is_file():
        raise ConfigError(f"{run_dir} does not have a trained adapter yet; run `rlvr run`")
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ConfigError(f"{output_dir} is not empty; name another directory")
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=".publish-") as temporary:
            aside = Path(temporary, "model")
            if merge and recipe.lora:
                merged_model(recipe, adapter_dir).save_pretrained(aside)
                load_tokenizer(recipe.model, recipe.prompt.chat_template).save_pretrained(aside)
            else:
                shutil.copytree(adapter_dir, aside)
                if recipe.lora:
                    _name_base(aside / ADAPTER_CONFIG, recipe.model)
            (aside / "README.md").write_text(_card(recipe, run_dir, merge=merge), "utf-8")
            shutil.copyfile(run_dir / RECIPE, aside / RECIPE)
            os.replace(aside, output_dir)
    except OSError as error:
        raise disk_error(output_dir, error) from error
    return output_dir


def merged_model(recipe: Recipe, adapter_dir: Path) -> PreTrainedModel:
    """Return the model with the adapter's update added to its weights, in the recipe's type.

    A quantised model is unpacked first, as in training: the update fits those weights, not the
    original ones. Logits equal the adapter model's up to the rounding of the
    sum to the recipe's type (1e-4 in fp32).
    """
    model = load_model(recipe.model, recipe.quantization)
    if recipe.quantization:
        model = model.dequantize()
    model = load_adapter(model.to(torch.float32), adapter_dir)
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return merged.to(torch.bfloat16 if recipe.model.dtype == "bf16" else torch.float32)


def _name_base(config_file: Path, model: ModelSection) -> None:
    """Name the base as the recipe does, not by the folder from which it was loaded."""
    try:
        config = json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{config_file.name} of the adapter is damaged ({error}); train again"
        ) from None
    config |= {"base_model_name_or_path": _public_name(model), "revision": model.revision or None}
    config_file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _public_name(model: ModelSection) -> str:
    """Return a name without the paths of this machine."""
    if model.is_hub_id or model.name.startswith((EMBEDDED_PREFIX, "s3://")):
        return model.name
    return Path(model.name).name


def _card(recipe: Recipe, run_dir: Path, *, merge: bool) -> str:
    base = _public_name(recipe.model)
    hub = f"base_model: {base}\n" if recipe.model.is_hub_id else ""
    if recipe.lora is None:
        kind = "All weights"
    else:
        kind = "The merged model" if merge else "A LoRA adapter"
    library = "peft" if recipe.lora and not merge else "transformers"
    return (
        f"---\n{hub}library_name: {library}\ntags: [grpo, rlvr]\n---\n\n"
        f"# {recipe.name}\n\n{recipe.description}\n\n"
        f"{kind} of `{base}`{f' at `{recipe.model.revision}`' if recipe.model.revision else ''}, "
        f"trained by GRPO with verifiable rewards ({', '.join(recipe.rewards)}).\n"
        f"Recipe `{recipe.hash}` is beside this card.\n\n{_prompt(recipe)}\n{_results(run_dir)}"
    )


def _prompt(recipe: Recipe) -> str:
    """Describe the prompts that the model was trained on."""
    prompt = recipe.prompt
    examples = f", after {count(prompt.num_shots, 'worked example')}" if prompt.num_shots else ""
    if prompt.style == "text":
        return f"It was trained on texts{examples}:\n\n{_fenced(prompt.question_template)}"
    parts = [f"It was trained on chats in the form of its tokenizer's template{examples}."]
    if prompt.system:
        parts.append(f"The system message:\n\n{_fenced(prompt.system)}")
    if prompt.question_template != "{question}":
        parts.append(f"The user's message:\n\n{_fenced(prompt.question_template)}")
    if prompt.assistant_prefix:
        parts.append(f"The assistant's beginning:\n\n{_fenced(prompt.assistant_prefix)}")
    if prompt.chat_options:
        parts.append(f"The template's options: `{json.dumps(prompt.chat_options)}`.")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}\n"


def _results(run_dir: Path) -> str:
    try:
        evaluation: dict[str, Any] = json.loads((run_dir / EVALUATION).read_text("utf-8"))
    except (OSError, ValueError):
        return "It has not been evaluated.\n"
    return f"{evaluation['verdict']}\n\n{markdown(shots_table(evaluation))}\n"
