"""Read raw records: JSON or Parquet on a disk or in S3, and the Hugging Face hub.

JSON is one object a line (JSON Lines), or an array of objects.

A record that cannot be read is yielded with its problem, so one broken line costs one row; a source
that cannot be read raises DataError.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.storage import open_storage
from rlvr_trainer.tasks import Split

JSON_LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson", ".ndjson.gz")
PARQUET = (".parquet",)
PARQUET_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Record:
    """A raw row, or the reason why it cannot be read."""

    location: str
    """`train.jsonl:5000`, by line (from 1), or `train.parquet[12]`, by row (from 0)."""
    raw: Mapping[str, Any] | None
    problem: str = ""
    text: str = ""
    """The source text of an unreadable record."""


def read_source(source: str, split: Split) -> Iterator[Record]:
    """Yield the records of a path, `s3://…` or `hub://…`.

    Raises ConfigError, DataError and PlatformError.
    """
    if source.startswith("hub://"):
        yield from _read_hub(source, split)
        return
    suffixes = source.lower()
    if not suffixes.endswith(JSON_LINES + PARQUET):
        raise ConfigError(
            f"data.{split}: {source!r} has an unknown format; name a file that ends in "
            f"{', '.join(JSON_LINES + PARQUET)}"
        )
    name = source.rsplit("/", 1)[-1]
    with _open(source, split) as file:
        if suffixes.endswith(PARQUET):
            yield from _read_parquet(file, name, source)
        else:
            opened = gzip.GzipFile(fileobj=file) if suffixes.endswith(".gz") else file
            yield from _read_json(opened, name, source)


def read_raw(source: str, split: Split) -> bytes:
    """Return the bytes of a path or `s3://…`. Raises ConfigError, DataError, PlatformError."""
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


def _read_json(file: Iterable[bytes], name: str, source: str) -> Iterator[Record]:
    lines = _lines(file, source)
    first = next(lines, None)
    if first is None:
        return
    start = first[1].removeprefix(codecs.BOM_UTF8).strip()
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{source} is UTF-16; write it as UTF-8")
    if start == b"{":
        raise DataError(
            f"{source} has JSON objects over several lines; write one object a line, or an array "
            "of objects"
        )
    numbered: Iterable[tuple[int, bytes]] = chain([first], lines)
    if start.startswith(b"["):
        numbered = whole = list(numbered)
        array = _array(b"".join(line for _, line in whole), start, source)
        if array is not None:
            yield from (_record(raw, f"{name}[{index}]") for index, raw in enumerate(array))
            return
    yield from (_parse_line(line, f"{name}:{number}") for number, line in numbered)


def _lines(file: Iterable[bytes], source: str) -> Iterator[tuple[int, bytes]]:
    """Number the lines that are not blank. Raises DataError for a damaged file."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            if line.removeprefix(codecs.BOM_UTF8).strip():
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise passing_error(error) or DataError(
            f"{source} cannot be read after line {number} ({error}); copy it again"
        ) from error


def _array(content: bytes, first_line: bytes, source: str) -> list[Any] | None:
    """Return the array in a file; None if only its first line is one. Raises DataError."""
    try:
        array: list[Any] = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        with suppress(ValueError, RecursionError):
            json.loads(first_line)
            return None
        raise DataError(
            f"{source} begins as a JSON array but is not one ({error}); repair it, or write one "
            "object a line"
        ) from error
    return array


def _parse_line(line: bytes, location: str) -> Record:
    text = line.decode("utf-8-sig", errors="replace").strip()
    try:
        raw = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # JSON, UTF-8, a number of 5,000 digits
        return Record(location, None, str(error) or type(error).__name__, text)
    return _record(raw, location)


def _record(raw: Any, location: str) -> Record:
    if isinstance(raw, dict):
        return Record(location, raw)
    return Record(location, None, f"is a {type(raw).__name__}, not an object", json.dumps(raw))


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
    """Split `hub://owner/name@revision?config=…&split=…`; (owner/name, revision, config, split)."""
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
            f"data.{split}: {source!r} does not name a revision, so its content can change; "
            f"write hub://{name}@COMMIT"
        )
    return name, revision, options.get("config"), options.get("split", split)
