"""Load the model, its tokenizer and an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import ConfigError
from rlvr_trainer.models.facts import ModelFacts, num_positions
from rlvr_trainer.models.fit import check_fit, own_code_message
from rlvr_trainer.models.locate import locate_model
from rlvr_trainer.recipe.schema import ModelSection, QuantizationSection, Recipe
from rlvr_trainer.tasks.chat_template import read_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "uint8": torch.uint8}


def load_tokenizer(model: ModelSection, chat_template: str = "") -> PreTrainedTokenizerBase:
    """Return the tokenizer, padding on the left as generation needs it, with a padding token.

    `chat_template` is a file that replaces its own template, also where the tokenizer is saved.
    """
    tokenizer = _from_pretrained(AutoTokenizer, model)
    if chat_template:
        tokenizer.chat_template = read_template(chat_template)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: ModelSection, quantization: QuantizationSection | None = None
) -> PreTrainedModel:
    """Return the causal language model in its recipe's type; a quantised one is put on the GPU.

    Raises ConfigError, PlatformError.
    """
    options: dict[str, Any] = {"dtype": DTYPES[model.dtype]}
    if quantization:
        options["quantization_config"] = _bits_and_bytes(quantization)
    if torch.cuda.is_available() and quantization:
        options["device_map"] = {"": torch.cuda.current_device()}
    loaded: PreTrainedModel = _from_pretrained(AutoModelForCausalLM, model, **options)
    _disable_cpu_packing(loaded)
    loaded.config.use_cache = True
    return loaded


def load_trained(recipe: Recipe, adapter_dir: Path) -> PreTrainedModel:
    """Return the trained model: the base with its adapter, or all weights."""
    if recipe.lora is None:
        # a relative path could be a hub id
        return load_model(ModelSection(name=str(adapter_dir.resolve()), dtype=recipe.model.dtype))
    return load_adapter(load_model(recipe.model, recipe.quantization), adapter_dir)


def load_adapter(model: PreTrainedModel, adapter_dir: Path) -> PreTrainedModel:
    """Return `model` with the adapter, for evaluation.

    Raises ConfigError if the adapter is damaged or of another model; PEFT would load the part that
    fits.
    """
    from peft import PeftModel, get_peft_model_state_dict

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter_dir / name).is_file():
            raise ConfigError(f"{adapter_dir} does not hold an adapter ({name}); train first")
    try:
        with safe_open(adapter_dir / ADAPTER_WEIGHTS, framework="pt") as file:
            held = set(file.keys())
        adapted = PeftModel.from_pretrained(model, str(adapter_dir), is_trainable=False)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split("\n", 2)[:2])
        raise ConfigError(
            f"the adapter in {adapter_dir} cannot be loaded ({reason}); it is damaged or was "
            "trained on another model: name another one, or train again"
        ) from error
    fitting = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if other := sorted(held ^ fitting):
        raise ConfigError(
            f"the adapter in {adapter_dir} was trained on another model: {len(other)} tensors are "
            f"only in one of the two, first {other[0]}; name the recipe that it was trained with"
        )
    return adapted


def check_loaded(recipe: Recipe, model: PreTrainedModel, tokenizer: Any) -> None:
    """Check the recipe against a loaded base model. Raises ConfigError."""
    head = model.get_output_embeddings()
    layers = (
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding | Conv1D) and module is not head
    )
    embedding: Any = model.get_input_embeddings()
    check_fit(
        recipe,
        ModelFacts(
            linear_layers=frozenset(layers),
            num_positions=num_positions(model.config.get_text_config().to_dict()),
            num_embeddings=embedding.num_embeddings,
            num_tokens=1 + max(tokenizer.get_vocab().values()),
        ),
    )


def _from_pretrained(factory: Any, model: ModelSection, **options: Any) -> Any:
    location = locate_model(model)
    revision = {"revision": model.revision} if model.is_hub_id else {"local_files_only": True}
    try:
        # with None it would ask on standard input
        return factory.from_pretrained(location, trust_remote_code=False, **revision, **options)
    except (OSError, ValueError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(own_code_message(model.name)) from error
        reason = str(error).strip().splitlines()[0]
        raise passing_error(error, source=f"model {model.name!r}") or ConfigError(
            f"model {model.name!r} cannot be loaded ({reason}); check model.name and "
            "model.revision, or download it and name the directory"
        ) from error


def _bits_and_bytes(quantization: QuantizationSection) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=DTYPES[quantization.compute_dtype],
        bnb_4bit_quant_storage=DTYPES[quantization.storage_dtype],
    )


def _disable_cpu_packing(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU.

    Linear4bit repacks them in a forward pass without gradient in evaluation mode, for a kernel that
    has no backward pass: after one evaluation the adapters would silently get no gradient.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
