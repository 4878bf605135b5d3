"""Read raw records from files on a disk or in S3, and from the Hugging Face hub.

A record that cannot be read is yielded with its problem, so one broken line costs one row; a source
that cannot be read raises DataError.
"""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

from rlvr_trainer.data.formats import Record, read_csv, read_json, read_parquet
from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe.row_source import (
    HUB,
    KNOWN_SUFFIXES,
    S3,
    check_shards,
    format_of,
    is_pattern,
    local_files,
    matching,
    parse_hub_source,
)
from rlvr_trainer.storage import open_storage
from rlvr_trainer.tasks import Split


def read_source(
    source: str, split: Split, oddities: Counter[str] | None = None
) -> Iterator[Record]:
    """Yield the records of files (a path, a folder, a pattern, `s3://…`) or of `hub://…`.

    `oddities` counts what is read over: byte-order marks, CRLF, blank lines. Raises ConfigError,
    DataError and PlatformError.
    """
    oddities = Counter() if oddities is None else oddities
    if source.startswith(HUB):
        yield from _read_hub(source, split)
        return
    for file in source_files(source, split):
        yield from _read_file(file, split, oddities)


def source_digest(source: str, split: Split) -> str:
    """Return the SHA-256 of the files of a source. Raises ConfigError, DataError, PlatformError."""
    digest = hashlib.sha256()
    for path in source_files(source, split):
        with _open(path, split) as file:
            digest.update(file.read())
    return digest.hexdigest()


def source_files(source: str, split: Split) -> list[str]:
    """Return the files of a path, folder or pattern, here or in S3, in the order of their names.

    Raises ConfigError if there are none, or of several formats or splits; PlatformError.
    """
    if format_of(source) and not is_pattern(source) and not _is_folder(source):
        return [source]
    names = _listed_in_s3(source) if source.startswith(S3) else map(str, local_files(source))
    files = list(names)
    if not all(map(format_of, files)) or not files:
        raise ConfigError(f"data.{split}: {_without_rows(source)}")
    try:
        check_shards([file.rpartition("/")[2] for file in files], source)
    except ValueError as error:
        raise ConfigError(f"data.{split}: {error}") from None
    return files


def _is_folder(source: str) -> bool:
    return not source.startswith(S3) and Path(source).expanduser().is_dir()


def _listed_in_s3(source: str) -> list[str]:
    """Return the files of rows in a prefix, not below folders in it. Raises PlatformError."""
    folder, _, last = source.rpartition("/")
    if not is_pattern(last):
        folder, last = source.rstrip("/"), ""
    keys = open_storage(folder).list()
    return [f"{folder}/{name}" for name in matching((key for key in keys if "/" not in key), last)]


def _without_rows(source: str) -> str:
    """Return the message for a source without a file that can be read."""
    path = Path(source).expanduser()
    if source.startswith(S3) or is_pattern(source) or path.is_dir():
        where = "matches" if is_pattern(source) else "holds"
        return f"{source} {where} no file of rows; they end in {KNOWN_SUFFIXES}"
    if path.is_file():
        return f"{source!r} has an unknown format; name a file that ends in {KNOWN_SUFFIXES}"
    return (
        f"{source} is neither a file nor a folder; name one whose files end in {KNOWN_SUFFIXES}, "
        f"or for a data set on the hub write {HUB}{'/'.join(path.parts[-2:])}@COMMIT"
    )


def _read_file(source: str, split: Split, oddities: Counter[str]) -> Iterator[Record]:
    name = source.rpartition("/")[2]
    with _open(source, split) as file:
        if format_of(source) == "Parquet":
            yield from read_parquet(file, name, source)
            return
        opened = gzip.GzipFile(fileobj=file) if source.lower().endswith(".gz") else file
        read = read_csv if format_of(source) == "CSV" else read_json
        yield from read(opened, name, source, oddities)


def _open(source: str, split: Split) -> IO[bytes]:
    try:
        if source.startswith(S3):
            folder, _, name = source.rpartition("/")
            return BytesIO(open_storage(folder).read_bytes(name))
        return Path(source).expanduser().open("rb")
    except OSError as error:
        raise passing_error(error) or DataError(
            f"data.{split}: {source} cannot be read ({error.strerror or error}); "
            "check the path and its permissions"
        ) from error


def _read_hub(source: str, split: Split) -> Iterator[Record]:
    hub = parse_hub_source(source)
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(f"{source}: the hub needs datasets; pip install 'rlvr[train]'") from error
    try:
        rows = load_dataset(hub.name, hub.config, revision=hub.revision, split=hub.split or split)
    except Exception as error:  # the hub's own errors share no base class
        raise passing_error(error, source=f"data.{split}: {source}") or DataError(
            f"data.{split}: {source} cannot be loaded ({type(error).__name__}: {error}); check the "
            "name, revision, config and split, and HF_TOKEN for a gated data set, or "
            f"set data.{split} to a JSONL or Parquet file"
        ) from error
    for index, raw in enumerate(rows):
        yield Record(f"{hub.name}[{index}]", raw)
