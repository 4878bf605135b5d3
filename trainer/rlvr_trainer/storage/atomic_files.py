"""Write a file completely or not at all, and map the errors of disks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from rlvr_trainer.errors import ConfigError, PlatformError, RLVRError
from rlvr_trainer.variables import CACHE_VARIABLE

FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
AWAY_ERRNOS = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.EREMOTEIO}
"""Errors of network file systems (NFS, FUSE, Lustre) while the server does not answer."""

NETWORK_ERRNOS = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
"""Errors of sockets without a class of their own."""

DISK_ERRNOS = FULL_ERRNOS | AWAY_ERRNOS
"""Errors that may pass; all others need a change."""


def cache_dir() -> Path:
    """Return the folder of converted and downloaded models: `RLVR_CACHE`, or `~/.cache/rlvr`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "rlvr")


def write_durably(path: Path, text: str) -> None:
    """Write `path` atomically, also with regard to a power cut.

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
    """Write `path` as `write_durably` does, and create its folder.

    Raises PlatformError for a full or broken disk, ConfigError for a path that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, text)
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(
    path: Path, error: OSError, *, doing: Literal["written", "read"] = "written"
) -> RLVRError:
    """Return what to raise for an OSError while `path` was written or read."""
    what = f"{path} cannot be {doing} ({error.strerror or error})"
    if error.errno in FULL_ERRNOS:
        return PlatformError(f"{what}; free some space or name another folder")
    if error.errno in AWAY_ERRNOS:
        return PlatformError(f"{what}; see that its disk answers, then try again")
    may = "write to" if doing == "written" else "read"
    return ConfigError(f"{what}; name a folder that you may {may}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise `disk_error` for an OSError, but FileNotFoundError for a missing file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (NotADirectoryError, IsADirectoryError):
        raise FileNotFoundError(f"{path} does not exist as a file") from None
    except OSError as error:
        raise disk_error(path, error, doing="read") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `disk_error` for an OSError, but FileNotFoundError for a missing source."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise disk_error(path, error) from error
