"""Locate a model, check that a recipe fits it, and load it.

The loaders are imported on first use, because they import torch.
"""

from typing import TYPE_CHECKING, Any

from rlvr_trainer.models.locate import local_folder, locate_model

if TYPE_CHECKING:
    from rlvr_trainer.models.load import (
        check_loaded,
        load_adapter,
        load_model,
        load_tokenizer,
        load_trained,
    )

__all__ = [
    "check_loaded",
    "load_adapter",
    "load_model",
    "load_tokenizer",
    "load_trained",
    "local_folder",
    "locate_model",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rlvr_trainer.models import load

    return getattr(load, name)
