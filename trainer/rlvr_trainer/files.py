"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rlvr_trainer.errors import PlatformError


def write_durably(path: Path, text: str) -> None:
    """Write `path` so that it holds the whole text or stays as it was, also after a power cut.

    Raises OSError, and leaves no fragment.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        with suppress(OSError):
            aside.unlink()
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """`write_durably`, making the folder too. Raises PlatformError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, text)
    except OSError as error:
        raise PlatformError(
            f"{path} cannot be written ({error.strerror or error}); free space there or choose "
            "another directory, then run again"
        ) from error
