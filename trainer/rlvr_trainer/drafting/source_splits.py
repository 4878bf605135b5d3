"""Find the training and the test rows in what a user names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rlvr_trainer.data.sources import read_source
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.recipe.row_source import (
    HUB,
    check_source,
    is_pattern,
    local_files,
    parse_hub_source,
)

NUM_READ = 2000
"""Rows that a draft is made from."""


@dataclass(frozen=True)
class Sources:
    """Training and test rows, as a recipe names them."""

    train: str
    test: str
    """Empty: a share of the training rows."""


def find_sources(data: str) -> Sources:
    """Return the sources of a file, folder, pattern, S3 prefix or data set on the hub.

    The test rows are those beside: a file or shards named `test` where those of `data` are named
    `train`, or the split of that name on the hub. Raises ConfigError.
    """
    try:
        check_source(data)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if data.startswith(HUB):
        hub = parse_hub_source(data)
        return Sources(data, "" if hub.split or not _has_test_split(data) else data)
    path = Path(data).expanduser()
    if path.is_dir():
        names = [file.name for file in local_files(data)]
        if any(name.startswith("train") for name in names) and not all(
            name.startswith("train") for name in names
        ):
            tested = next((f for f in ("test", "val", "dev") if _begins(names, f)), "")
            return Sources(f"{path}/train*", f"{path}/{tested}*" if tested else "")
    beside = re.sub(r"train(?=[^/]*$)", "test", data)
    return Sources(data, beside if beside != data and local_files(beside) else "")


def read_rows(source: str) -> list[dict[str, Any]]:
    """Return the first rows of a source that can be read. Raises ConfigError, DataError."""
    records = islice(read_source(source, "train"), NUM_READ)
    rows = [dict(record.raw) for record in records if record.raw is not None]
    if not rows:
        raise DataError(f"{source} holds no rows that can be read; name one that does")
    return rows


def folder_of(source: str) -> Path:
    """Return the folder beside the rows; the working directory for rows elsewhere."""
    if "://" in source:
        return Path.cwd()
    if is_pattern(source):
        source = source.rpartition("/")[0] or "."
    return Path(source).expanduser().resolve().parent


def _begins(names: list[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)


def _has_test_split(data: str) -> bool:
    try:
        next(read_source(data, "test"), None)
    except DataError:
        return False
    return True
