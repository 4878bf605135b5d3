"""Reading raw records: JSON Lines or Parquet on this disk or in S3, and the Hugging Face hub.

A record that cannot be read is yielded with its problem, so that one broken line costs one row; a
source that cannot be read raises DataError.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.storage import open_storage
from rlvr_trainer.tasks import Split

JSON_LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson")
PARQUET = (".parquet",)
PARQUET_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Record:
    """One raw row, or the reason why there is none."""

    location: str
    """`train.jsonl:5000`, by line (from 1), or `train.parquet[12]`, by row (from 0)."""
    raw: Mapping[str, Any] | None
    problem: str = ""
    text: str = ""
    """What stands in the source, for an unreadable record."""


def read_source(source: str, split: Split) -> Iterator[Record]:
    """The records of a path, `s3://…` or `hub://…`.

    Raises ConfigError, DataError and PlatformError.
    """
    if source.startswith("hub://"):
        yield from _read_hub(source, split)
        return
    if not source.endswith(JSON_LINES + PARQUET):
        raise ConfigError(
            f"data.{split}: {source!r} is of no known format; name a file that ends in "
            f"{', '.join(JSON_LINES + PARQUET)}"
        )
    name = source.rsplit("/", 1)[-1]
    with _open(source, split) as file:
        read = _read_parquet if source.endswith(PARQUET) else _read_json_lines
        yield from read(file, name, source)


def read_raw(source: str, split: Split) -> bytes:
    """All of a path or `s3://…`, as it lies there. Raises ConfigError, DataError, PlatformError."""
    with _open(source, split) as file:
        return file.read()


def _open(source: str, split: Split) -> IO[bytes]:
    try:
        if source.startswith("s3://"):
            folder, _, name = source.rpartition("/")
            return BytesIO(open_storage(folder).read_bytes(name))
        return Path(source).expanduser().open("rb")
    except OSError as error:
        raise passing_error(error) or DataError(
            f"data.{split}: {source} cannot be read ({error.strerror or error}); "
            "check the path and its permissions"
        ) from error


def _read_json_lines(file: IO[bytes], name: str, source: str) -> Iterator[Record]:
    lines = gzip.GzipFile(fileobj=file) if source.endswith(".gz") else file
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse_line(line, f"{name}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise passing_error(error) or DataError(
            f"{source} cannot be read after line {number} ({error}); copy it again"
        ) from error


def _parse_line(line: bytes, location: str) -> Record:
    text = line.decode("utf-8-sig", errors="replace").strip()
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # JSON, UTF-8, a number of 5,000 digits
        return Record(location, None, str(error) or type(error).__name__, text)
    if not isinstance(raw, dict):
        return Record(location, None, f"is a {type(raw).__name__}, not an object", text)
    return Record(location, raw)


def _read_parquet(file: IO[bytes], name: str, source: str) -> Iterator[Record]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigError(
            f"{source}: reading Parquet needs pyarrow; pip install 'rlvr[train]'"
        ) from error
    index = 0
    try:
        for batch in ParquetFile(file).iter_batches(batch_size=PARQUET_BATCH_ROWS):
            for raw in batch.to_pylist():
                yield Record(f"{name}[{index}]", raw)
                index += 1
    except (ArrowException, OSError) as error:
        raise passing_error(error) or DataError(
            f"{source} is not a readable Parquet file ({error}); copy it again"
        ) from error


def _read_hub(source: str, split: Split) -> Iterator[Record]:
    name, revision, config, hub_split = parse_hub_source(source, split)
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(f"{source}: the hub needs datasets; pip install 'rlvr[train]'") from error
    try:
        rows = load_dataset(name, config, revision=revision, split=hub_split)
    except Exception as error:  # the hub's own errors share no base class
        raise passing_error(error, source=f"data.{split}: {source}") or DataError(
            f"data.{split}: {source} cannot be loaded ({type(error).__name__}: {error}); check the "
            "name, revision, config and split, and HF_TOKEN for a gated data set, or "
            f"set data.{split} to a JSONL or Parquet file"
        ) from error
    for index, raw in enumerate(rows):
        yield Record(f"{name}[{index}]", raw)


def parse_hub_source(source: str, split: Split) -> tuple[str, str, str | None, str]:
    """(owner/name, revision, config, split) of `hub://owner/name@revision?config=…&split=…`."""
    location, _, query = source.removeprefix("hub://").partition("?")
    name, _, revision = location.partition("@")
    options = dict(parse_qsl(query))
    unknown = set(options) - {"config", "split"}
    if not name or unknown:
        raise ConfigError(
            f"data.{split}: {source!r} is not hub://owner/name@revision?config=…&split=…"
        )
    if not revision:
        raise ConfigError(
            f"data.{split}: {source!r} names no revision, and what it means can change; "
            f"write hub://{name}@COMMIT"
        )
    return name, revision, options.get("config"), options.get("split", split)
