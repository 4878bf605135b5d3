"""Where a model comes from, and how it is loaded for training and evaluation."""

from rlvr_trainer.models.load import load_adapter, load_model, load_tokenizer, load_trained
from rlvr_trainer.models.locate import local_folder, locate_model

__all__ = [
    "load_adapter",
    "load_model",
    "load_tokenizer",
    "load_trained",
    "local_folder",
    "locate_model",
]
