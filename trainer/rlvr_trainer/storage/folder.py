"""Store files in a folder on a disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from rlvr_trainer.storage.atomic_files import disk_error, reading, writing
from rlvr_trainer.storage.interface import Storage, safe_key

ASIDE_PREFIX = ".writing-"
CHUNK_BYTES = 2**20
NO_LINK_ERRNOS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


class LocalStorage(Storage):
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        return str(self._root)

    def read_bytes(self, key: str) -> bytes:
        path = self._path(key)
        with reading(path):
            return path.read_bytes()

    def write_bytes(self, key: str, content: bytes) -> None:
        path = self._path(key)
        with self._aside(path, [content]) as aside:
            os.replace(aside, path)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        path = self._path(key)
        with self._aside(path, [content]) as aside:
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINK_ERRNOS:
                    raise
                return _create(path, content)
        return True

    def exists(self, key: str) -> bool:
        return _size(self._path(key)) is not None

    def read_from(self, key: str, offset: int) -> bytes:
        path = self._path(key)
        with _open(path) as file, reading(path):
            file.seek(offset)
            return file.read()

    def sizes(self, prefix: str = "", *, after: str = "") -> dict[str, int]:
        start = self._path(prefix) if prefix.strip("/") else self._root
        paths = (path for path in _walk(start) if not path.name.startswith(ASIDE_PREFIX))
        return {
            key: size
            for path in paths
            if (key := path.relative_to(self._root).as_posix()) > after
            and (size := _size(path)) is not None  # else it was removed after it was listed
        }

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error

    def upload_file(self, source: Path, key: str) -> None:
        path = self._path(key)
        with _open(source) as file, self._aside(path, _chunks(file, source)) as aside:
            os.replace(aside, path)

    def download_file(self, key: str, target: Path) -> None:
        path = self._path(key)
        with _open(path) as file, writing(target), target.open("wb") as copy:
            copy.writelines(_chunks(file, path))

    def _path(self, key: str) -> Path:
        return self._root / safe_key(key)

    @contextmanager
    def _aside(self, path: Path, content: Iterable[bytes]) -> Iterator[Path]:
        """Yield a temporary file with the content beside `path`."""
        aside = path.with_name(f"{ASIDE_PREFIX}{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("xb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
            yield aside
        except OSError as error:
            raise disk_error(path, error) from error
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def _open(path: Path) -> IO[bytes]:
    with reading(path):
        return path.open("rb")


def _chunks(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the rest of an open file; an error names `path`, not the file that is written."""
    while True:
        with reading(path):
            chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below `folder`, if it exists. Raises as `reading`."""

    def fail(error: OSError) -> None:
        with suppress(FileNotFoundError), reading(Path(error.filename or folder)):
            raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            yield Path(parent, name)


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or None if there is none."""
    try:
        with reading(path):
            status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _create(path: Path, content: bytes) -> bool:
    """Create a file without hard links: exclusive, but a reader may see a part."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True
