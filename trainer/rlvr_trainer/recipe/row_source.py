"""Read what `data.train` and `data.test` name: files, a folder, a pattern, S3, the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

HUB = "hub://"
S3 = "s3://"

SUFFIXES = {
    "JSON": (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson", ".ndjson.gz"),
    "CSV": (".csv", ".csv.gz", ".tsv", ".tsv.gz"),
    "Parquet": (".parquet",),
}
"""Format → the endings of its files."""
KNOWN_SUFFIXES = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

HUB_FORM = "hub://owner/name@revision?config=…&split=…"
_HUB_PAGE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)datasets/(?P<path>[^?#]+)"
)
_SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "eval": "validation",
}  # fmt: skip
"""Words in the names of files → the split that they hold."""


@dataclass(frozen=True)
class HubSource:
    """A split of a data set on the hub."""

    name: str
    revision: str
    config: str | None
    split: str
    """Empty: that of the field."""


def check_source(source: str) -> None:
    """Raise ValueError for a source that is neither a path, `s3://…` nor a valid `hub://…`."""
    if source.startswith(HUB):
        parse_hub_source(source)
    elif page := _HUB_PAGE.match(source):
        raise ValueError(f"{source!r} is a page of the hub; write {_hub_form(page['path'])}")
    elif "://" in source and not source.startswith(S3):
        raise ValueError(f"{source!r} is neither a path, s3://bucket/key nor {HUB_FORM}")


def parse_hub_source(source: str) -> HubSource:
    """Split `hub://owner/name@revision?config=…&split=…`. Raises ValueError."""
    location, _, query = source.removeprefix(HUB).partition("?")
    name, _, revision = location.partition("@")
    options = dict(parse_qsl(query))
    if name.startswith("datasets/"):
        raise ValueError(f"{source!r} is not {HUB_FORM}; write {_hub_form(name[9:])}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or set(options) - {"config", "split"}:
        raise ValueError(f"{source!r} is not {HUB_FORM}")
    if not revision:
        asked = f"?{query}" if query else ""
        raise ValueError(
            f"{source!r} does not name a revision, so its content can change; "
            f"write {HUB}{name}@COMMIT{asked}"
        )
    return HubSource(name, revision, options.get("config"), options.get("split", ""))


def format_of(name: str) -> str:
    """Return the format of a file by its name; empty if it is unknown."""
    lower = name.lower()
    return next((kind for kind, ends in SUFFIXES.items() if lower.endswith(ends)), "")


def is_pattern(path: str) -> bool:
    """Return True if a path holds `*`, `?` or `[`."""
    return glob.has_magic(path)


def local_files(source: str) -> list[Path]:
    """Return the files of a path, folder or pattern on this machine, sorted; none for others."""
    if not source or "://" in source:
        return []
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        paths = [child for child in path.iterdir() if child.is_file()]
    elif is_pattern(source):
        matches = glob.glob(str(path), recursive=True)
        paths = [Path(match) for match in matches if Path(match).is_file()]
    else:
        return []
    return sorted(child for child in paths if is_shard(child.name))


def is_shard(name: str) -> bool:
    """Return True for a file of rows, not `README.md` or `.cache.parquet` beside them."""
    return bool(format_of(name)) and not name.startswith((".", "_"))


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names of a folder that match a pattern (empty: all) and are shards, sorted."""
    return sorted(
        name for name in names if is_shard(name) and (not pattern or fnmatchcase(name, pattern))
    )


def check_shards(names: Iterable[str], source: str) -> None:
    """Raise ValueError if the files of a source are of several formats or of several splits."""
    by_format: dict[str, str] = {}
    by_split: dict[str, str] = {}
    for name in names:
        by_format.setdefault(format_of(name), name)
        words = re.split(r"[^a-z]+", name.lower())
        for split in {_SPLITS[word] for word in words if word in _SPLITS}:
            by_split.setdefault(split, name)
    for several, of in ((by_format, "formats"), (by_split, "splits")):
        if len(several) > 1:
            examples = ", ".join(several[kind] for kind in sorted(several))
            folder = source if not is_pattern(source) else source.rpartition("/")[0]
            pattern = "*.parquet" if of == "formats" else "train-*"
            raise ValueError(
                f"{source} holds files of several {of} ({', '.join(sorted(several))}, such as "
                f"{examples}); name those to read by a pattern, {folder.rstrip('/')}/{pattern}"
            )


def _hub_form(page: str) -> str:
    """Return the source for the path of a hub page: `owner/name`, perhaps with what it shows."""
    parts = [part for part in page.split("/") if part]
    shown = next((n for n, part in enumerate(parts) if part in _PAGES), len(parts))
    name, rest = "/".join(parts[: min(shown, 2)]), parts[shown:]
    revision, options = "COMMIT", {}
    match rest:
        case ["viewer", config, split, *_]:
            options = {"config": config, "split": split}
        case ["viewer", config]:
            options = {"config": config}
        case ["tree" | "blob" | "resolve" | "raw" | "commit", named, *_] if named != "main":
            revision = named
    query = f"?{urlencode(options)}" if options else ""
    return f"{HUB}{name}@{revision}{query}"


_PAGES = {"tree", "blob", "resolve", "raw", "commit", "commits", "viewer", "discussions", "embed"}
