"""Read the raw records of a file: JSON, CSV or Parquet.

JSON is one object a line (JSON Lines), or an array of objects. CSV has a header; fields may be
quoted and then hold line ends.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

from rlvr_trainer.error_mapping import passing_error
from rlvr_trainer.errors import ConfigError, DataError

PARQUET_BATCH_ROWS = 1024
DELIMITERS = ",;\t"
MAX_FIELD_CHARACTERS = 1 << 30
"""Limit of a field of CSV; a text without end would have filled the memory before."""

BYTE_ORDER_MARK, CRLF, BLANK = "byte-order marks", "CRLF lines", "blank lines"
"""Oddities of a text file, which are read over and counted."""


@dataclass(frozen=True)
class Record:
    """A raw row, or the reason why it cannot be read."""

    location: str
    """`train.jsonl:5000`, by line (from 1), or `train.parquet[12]`, by row (from 0)."""
    raw: Mapping[str, Any] | None
    problem: str = ""
    text: str = ""
    """The source text of an unreadable record."""


def read_json(
    file: Iterable[bytes], name: str, source: str, oddities: Counter[str]
) -> Iterator[Record]:
    """Yield the objects of a JSON file, one a line or in an array. Raises DataError."""
    lines = _filled(_lines(file, source, oddities), oddities)
    first = next(lines, None)
    if first is None:
        return
    start = first[1].removeprefix(codecs.BOM_UTF8).strip()
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


def read_csv(
    file: Iterable[bytes], name: str, source: str, oddities: Counter[str]
) -> Iterator[Record]:
    """Yield the rows of a file with a header; every value is a text.

    The delimiter is the first of comma, semicolon and tab in the header, outside of quotes. Raises
    DataError for a header without names or with one twice, a quote that is not closed and a text
    that is not UTF-8.
    """
    numbered = _lines(file, source, oddities)
    first = next(_filled(numbered, oddities), None)
    if first is None:
        return
    header = _text(*first, source).removeprefix("\ufeff")
    unquoted = re.sub(r'"[^"]*("|$)', "", header)
    delimiter = next((char for char in unquoted if char in DELIMITERS), DELIMITERS[0])
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    texts = chain([header], (_text(number, line, source) for number, line in numbered))
    rows = csv.reader(texts, delimiter=delimiter, strict=True)
    begins, skipped = first[0], first[0] - 1  # a row may have several lines
    try:
        names = [field.strip() for field in next(rows)]
        _check_header(names, source)
        begins = skipped + rows.line_num + 1
        for fields in rows:
            if any(field.strip() for field in fields):
                yield _csv_record(names, fields, f"{name}:{begins}", delimiter)
            else:
                oddities[BLANK] += 1
            begins = skipped + rows.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{source}:{begins} begins a row that is not CSV ({error}); close its quotes, and "
            'write a quote within a field as ""'
        ) from error


def _check_header(names: list[str], source: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not any(names):
        raise DataError(
            f"{source} has the header {', '.join(names)!r}"
            + (f", in which {twice[0]!r} is there twice" if twice and any(names) else "")
            + "; give each column a name of its own in the first line"
        )


def _csv_record(names: list[str], fields: list[str], location: str, delimiter: str) -> Record:
    if len(fields) == len(names):
        return Record(location, dict(zip(names, fields, strict=True)))
    problem = f"has {len(fields)} fields, and the header has {len(names)}"
    return Record(location, None, problem, delimiter.join(fields))


def _text(number: int, line: bytes, source: str) -> str:
    try:
        return line.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}:{number} is not UTF-8 ({error.reason}: byte 0x{line[error.start]:02x}); "
            "save the file as UTF-8"
        ) from None


def _lines(
    file: Iterable[bytes], source: str, oddities: Counter[str]
) -> Iterator[tuple[int, bytes]]:
    """Number the lines; count what is odd. Raises DataError for a damaged file and for UTF-16."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{source} is UTF-16; write it as UTF-8")
            oddities[BYTE_ORDER_MARK] += line.startswith(codecs.BOM_UTF8)
            oddities[CRLF] += line.endswith(b"\r\n")
            yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise passing_error(error) or DataError(
            f"{source} cannot be read after line {number} ({error}); copy it again"
        ) from error


def _filled(
    lines: Iterable[tuple[int, bytes]], oddities: Counter[str]
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, and count the others."""
    for number, line in lines:
        if line.removeprefix(codecs.BOM_UTF8).strip():
            yield number, line
        else:
            oddities[BLANK] += 1


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


def read_parquet(file: IO[bytes], name: str, source: str) -> Iterator[Record]:
    """Yield the rows of a Parquet file. Raises ConfigError without pyarrow, DataError."""
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
