"""What is installed with which extra."""

from __future__ import annotations

from importlib.util import find_spec

from rlvr_trainer.errors import ConfigError

LOCAL = ("local", ("kfp", "torch", "transformers", "trl", "peft"))
TRAIN = ("train", ("torch", "transformers", "peft"))
PIPELINES = ("pipelines", ("kfp",))
KUBERNETES = ("kubernetes", ("kubernetes",))
S3 = ("s3", ("boto3",))


def require(extra: tuple[str, tuple[str, ...]], purpose: str) -> None:
    """Raise ConfigError with the install line when a module of the extra is missing."""
    name, modules = extra
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{purpose} needs {', '.join(missing)}, which is not installed; run "
            f"pip install 'rlvr[{name}]'"
        )
