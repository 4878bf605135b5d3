"""Read the number of parameters of a recipe's model, from its files or its name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

from rlvr_trainer.recipe.schema import ModelSection

# "0.5B", "135m", "1_5b"; not the "A3B" of a mixture's active parameters
_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:[._]\d+)?)([bm])(?![A-Za-z0-9])", re.I)


def num_parameters(model: ModelSection) -> float | None:
    """Return the parameters of a model on this machine, or else those that its name states."""
    return _in_files(Path(model.name).expanduser()) or _in_name(model.name)


def _in_name(name: str) -> float | None:
    """Return the largest number of a name such as `Qwen/Qwen2.5-0.5B-Instruct`."""
    sizes = [
        float(number.replace("_", ".")) * (1e9 if unit in "bB" else 1e6)
        for number, unit in _IN_NAME.findall(name)
    ]
    return max(sizes, default=None)


def _in_files(folder: Path) -> float | None:
    try:
        return float(sum(_tensor_sizes(folder))) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tensor_sizes(folder: Path) -> Iterator[int]:
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError(f"{path} is not a safetensors file")
            header = json.loads(file.read(length))
        yield from (prod(header[name]["shape"]) for name in header if name != "__metadata__")
