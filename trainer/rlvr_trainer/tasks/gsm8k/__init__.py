"""Provide GSM8K (Cobbe et al., arXiv 2110.14168; MIT): 7,473 training and 1,319 test rows."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

from rlvr_trainer.errors import DataError
from rlvr_trainer.tasks.base import Row, Split
from rlvr_trainer.tasks.question_answer import QuestionAnswer

if TYPE_CHECKING:
    from rlvr_trainer.recipe.schema import Recipe

SHA256 = {
    "train": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "test": "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
}
"""Hash of each split's uncompressed text, as published."""

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


class GSM8K(QuestionAnswer):
    """Grade-school word problems; calculator marks (`<<48/2=24>>`) are removed from solutions."""

    name: ClassVar[str] = "gsm8k"

    def default_rows(self, split: Split, recipe: Recipe) -> Iterator[Mapping[str, Any]]:
        """Yield the packaged rows. Raises DataError if the file is not the published one."""
        for line in read_text(split).splitlines():
            yield json.loads(line)

    def parse(self, raw: Mapping[str, Any], id: str) -> Row:
        """Return the row without calculator marks. Raises UnusableRow."""
        row = super().parse(raw, id)
        return replace(row, solution=_CALCULATOR_MARK.sub("", row.solution))


def read_text(split: Split) -> str:
    """Return a split as published, one JSON object a line. Raises DataError."""
    file = files(__package__).joinpath(f"{split}.jsonl.gz")
    try:
        text = gzip.decompress(file.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read ({error}); install rlvr again") from error
    if hashlib.sha256(text).hexdigest() != SHA256[split]:
        raise DataError(
            f"{file} is not the published GSM8K (its SHA-256 differs); install rlvr again"
        )
    return text.decode()
