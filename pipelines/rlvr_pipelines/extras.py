"""The extras of this package, and the modules that each of them installs."""

from __future__ import annotations

from importlib.util import find_spec

from rlvr_trainer.errors import ConfigError

LOCAL = ("local", ("psutil", "torch", "transformers", "trl", "peft"))
TRAIN = ("train", ("torch", "transformers", "peft"))
PIPELINES = ("pipelines", ("kfp",))
KUBERNETES = ("kubernetes", ("kubernetes", "urllib3"))
S3 = ("s3", ("boto3",))


Extra = tuple[str, tuple[str, ...]]
"""The name of an extra, and the modules that it installs."""


def is_installed(extra: Extra) -> bool:
    """Return True if all modules of the extra are installed."""
    return not _missing(extra)


def require(extra: Extra, purpose: str) -> None:
    """Raise ConfigError with the install command if a module of the extra is missing."""
    missing = _missing(extra)
    if missing:
        raise ConfigError(
            f"{purpose} needs {', '.join(missing)}, which is not installed; run "
            f"pip install 'rlvr[{extra[0]}]'"
        )


def _missing(extra: Extra) -> list[str]:
    return [module for module in extra[1] if find_spec(module) is None]
