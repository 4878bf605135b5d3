"""Train and evaluate by a recipe: tasks, rewards, GRPO, evaluation and report.

Names load on first use: importing this package imports neither torch nor pydantic.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlvr_trainer.api import compare, evaluate, prepare, train
    from rlvr_trainer.recipe.reader import load_recipe
    from rlvr_trainer.recipe.schema import Recipe
    from rlvr_trainer.shared_prefix import SharedPrefixGRPOTrainer
    from rlvr_trainer.tasks import Task

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "SharedPrefixGRPOTrainer",
    "Task",
    "compare",
    "evaluate",
    "load_recipe",
    "prepare",
    "train",
]

_MODULES = {
    "Recipe": "recipe.schema",
    "SharedPrefixGRPOTrainer": "shared_prefix",
    "Task": "tasks",
    "compare": "api",
    "evaluate": "api",
    "load_recipe": "recipe.reader",
    "prepare": "api",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
