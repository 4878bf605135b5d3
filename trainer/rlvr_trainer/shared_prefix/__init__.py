"""Compute a prefix that sequences share only once: in training passes and in generation.

Names are imported on first use, because only `SharedPrefixGRPOTrainer` needs TRL.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlvr_trainer.shared_prefix.generation import generate
    from rlvr_trainer.shared_prefix.grpo_trainer import (
        SharedPrefixGRPOTrainer,
        SharedPrefixMismatch,
    )
    from rlvr_trainer.shared_prefix.log_probs import token_log_probs
    from rlvr_trainer.shared_prefix.registration import unsupported_reason
    from rlvr_trainer.shared_prefix.sampling import LogitsNotFinite

__all__ = [
    "LogitsNotFinite",
    "SharedPrefixGRPOTrainer",
    "SharedPrefixMismatch",
    "generate",
    "token_log_probs",
    "unsupported_reason",
]

_MODULES = {
    "LogitsNotFinite": "sampling",
    "SharedPrefixGRPOTrainer": "grpo_trainer",
    "SharedPrefixMismatch": "grpo_trainer",
    "generate": "generation",
    "token_log_probs": "log_probs",
    "unsupported_reason": "registration",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
