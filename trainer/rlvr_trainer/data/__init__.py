"""Prepare rows as train, validation and test files, with a manifest that accounts for each row."""

from rlvr_trainer.data.prepare import at_most, prepare, repeat_rows
from rlvr_trainer.data.splits import (
    MANIFEST,
    Manifest,
    data_hash,
    load_exemplars,
    load_manifest,
    load_rows,
)

__all__ = [
    "MANIFEST",
    "Manifest",
    "at_most",
    "data_hash",
    "load_exemplars",
    "load_manifest",
    "load_rows",
    "prepare",
    "repeat_rows",
]
