"""Write the files of prepared data atomically, and verify them when they are read.

`manifest.json` is written last and holds the hash of every other file: without it, or with a file
that does not match it, the data is not valid.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from rlvr_trainer.errors import DataError
from rlvr_trainer.storage.atomic_files import disk_error
from rlvr_trainer.tasks import Row

MANIFEST = "manifest.json"
QUARANTINED = "quarantined.jsonl"
TRAINED_ON = ("train.jsonl", "exemplars.jsonl")
VERSION = 1


class Manifest(TypedDict):
    """The content of `manifest.json`: what was read, and what became of it."""

    version: int
    task: str
    seed: int
    source: dict[str, str]
    read: dict[str, int]
    counts: dict[str, int]
    """Rows of each split, and those quarantined."""
    quarantined: dict[str, int]
    """Quarantined rows by reason."""
    oddities: dict[str, dict[str, int]]
    """Split → oddities that were read over in its files, such as blank lines."""
    exemplar_ids: list[str]
    header_tokens: dict[str, int]
    """Tokens of the header by number of shots."""
    max_prompt_tokens: int
    files: dict[str, dict[str, Any]]
    """`sha256` and `bytes` of each file."""


def load_rows(data_dir: Path, split: Literal["train", "validation", "test"]) -> list[Row]:
    """Return the rows of a split. Raises DataError if the files do not match the manifest."""
    return _load(data_dir, f"{split}.jsonl")


def load_exemplars(data_dir: Path) -> list[Row]:
    """Return the exemplars in the order of the header. Raises DataError as `load_rows`."""
    return _load(data_dir, "exemplars.jsonl")


def load_manifest(data_dir: Path) -> Manifest:
    """Return the manifest that `prepare` wrote. Raises DataError if there is none."""
    path = data_dir / MANIFEST
    try:
        manifest: Manifest = json.loads(path.read_bytes())
        version = manifest["version"]
    except FileNotFoundError:
        raise DataError(
            f"{data_dir} does not hold prepared data (no {MANIFEST}); prepare it"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the data again") from error
    if version != VERSION:
        raise DataError(f"{path} has version {version}, not {VERSION}; prepare the data again")
    return manifest


def data_hash(data_dir: Path) -> str:
    """Return twelve hex digits of the rows that training sees. Raises DataError.

    Test rows never count.
    """
    described = load_manifest(data_dir)["files"]
    seen = {name: described[name]["sha256"] for name in TRAINED_ON}
    return sha256(json.dumps(seen, sort_keys=True).encode())[:12]


def row_lines(rows: Iterable[Row]) -> bytes:
    """Return one JSON object a row; the same rows give the same bytes."""
    return json_lines(
        {
            "id": row.id,
            "question": row.question,
            "answer": row.answer,
            "solution": row.solution,
            "extra": dict(row.extra),
            **({"messages": list(row.messages)} if row.messages else {}),
        }
        for row in rows
    )


def json_lines(objects: Iterable[Mapping[str, Any]]) -> bytes:
    """Return one JSON object a line; dates, decimals and bytes are written as text."""
    return b"".join(json.dumps(item, default=str).encode() + b"\n" for item in objects)


def sha256(content: bytes) -> str:
    """Return the SHA-256 in hex digits."""
    return hashlib.sha256(content).hexdigest()


def write_data(data_dir: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    """Write files and manifest so that a reader finds all of them or none.

    Raises PlatformError for a full or broken disk, ConfigError for a folder that cannot be written.
    """
    aside: Path | None = None
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=data_dir))
        for name, content in files.items():
            _write(aside / name, content)
        _write(aside / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n")
        (data_dir / MANIFEST).unlink(missing_ok=True)
        for name in (*files, MANIFEST):
            os.replace(aside / name, data_dir / name)
    except OSError as error:
        raise disk_error(data_dir, error) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _load(data_dir: Path, name: str) -> list[Row]:
    manifest, path = load_manifest(data_dir), data_dir / name
    try:
        content = path.read_bytes()
        expected = manifest["files"][name]["sha256"]
    except (OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the data again") from error
    if sha256(content) != expected:
        raise DataError(
            f"{path} is not the file that {MANIFEST} describes (its SHA-256 differs); "
            "prepare the data again"
        )
    return [Row(**json.loads(line)) for line in content.split(b"\n") if line]
