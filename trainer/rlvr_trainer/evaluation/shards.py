"""Split an evaluation into shards of batches, and join their samples.

The completions of a batch do not depend on earlier batches, so the joined shards of any split are
the samples of a single process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr_trainer.data import at_most, load_rows
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.evaluation.outcome import name_rows
from rlvr_trainer.run_dir.layout import SAMPLE_SHARDS

if TYPE_CHECKING:
    from pathlib import Path

    from rlvr_trainer.evaluation.outcome import SampleRecord
    from rlvr_trainer.recipe.schema import Recipe
    from rlvr_trainer.tasks import Row


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of an evaluation."""

    index: int = 0
    count: int = 1

    @property
    def text(self) -> str:
        """The text that `parse_shard` parses."""
        return f"{self.index}/{self.count}"

    @property
    def key(self) -> str:
        """The path of its samples in the run directory."""
        return f"{SAMPLE_SHARDS}/shard-{self.index}-of-{self.count}.jsonl"

    @property
    def all(self) -> tuple[Shard, ...]:
        """All shards of the evaluation."""
        return tuple(Shard(index, self.count) for index in range(self.count))

    def of(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return every `count`-th batch, so that short and long ones are spread evenly."""
        return list(batches[self.index :: self.count])


Request = tuple["Row", int]
"""A row, and the index of its completion."""

Key = tuple[int, bool, str, int]
"""The identity of a sample: shots, greedy, the row's id, and the index of its completion."""


def parse_shard(text: str) -> Shard:
    """Parse `R/N`, R from 0. Raises ConfigError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--shard {text!r} is not a shard; write R/N with R from 0 to N-1")
    return Shard(int(index), int(count))


@dataclass(frozen=True)
class Batch:
    """Completions that are generated together."""

    num_shots: int
    requests: tuple[Request, ...]
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    """Seed of the sampling."""

    @property
    def keys(self) -> Iterator[Key]:
        """The identities of its samples."""
        return (
            (self.num_shots, not self.temperature, row.id, sample) for row, sample in self.requests
        )


def evaluated_rows(recipe: Recipe, data_dir: Path) -> list[Row]:
    """Return the test rows, at most `evaluation.num_rows`, in order. Raises DataError."""
    rows = load_rows(data_dir, "test")
    return at_most(rows, recipe.evaluation.num_rows, f"evaluation-{recipe.seed}")


def batches(recipe: Recipe, rows: Sequence[Row]) -> list[Batch]:
    """Return all batches of an evaluation: by shots, greedy ones before sampled ones."""
    size, drawn = recipe.evaluation.batch_size, recipe.evaluation.pass_at_k
    ordered: list[Batch] = []
    for num_shots in recipe.evaluated_shots:
        ordered += greedy_batches(rows, num_shots, size)
        if drawn:
            requests = [(row, index) for row in rows for index in range(drawn.num_samples)]
            for cut in _cut(requests, size):
                seed = random.Random(f"{recipe.seed} {len(ordered)}").getrandbits(32)
                ordered.append(Batch(num_shots, cut, drawn.temperature, seed))
    return ordered


def greedy_batches(rows: Sequence[Row], num_shots: int, size: int) -> list[Batch]:
    """Return batches with one greedy completion of each row."""
    return [Batch(num_shots, cut) for cut in _cut([(row, 0) for row in rows], size)]


def _cut(requests: Sequence[Request], size: int) -> Iterator[tuple[Request, ...]]:
    return (tuple(requests[start : start + size]) for start in range(0, len(requests), size))


def join(
    parts: Sequence[Sequence[SampleRecord]], expected: Sequence[Batch]
) -> list[dict[str, Any]]:
    """Join the samples of all shards in the order of the batches `expected`.

    Raises DataError for a sample that is missing, there twice or not expected.
    """
    by_key: dict[Key, SampleRecord] = {}
    twice = []
    for sample in (sample for part in parts for sample in part):
        key = (sample["shots"], sample["greedy"], sample["id"], sample["sample"])
        if key in by_key:
            twice.append(key)
        by_key[key] = sample
    keys = [key for batch in expected for key in batch.keys]
    missing = [key for key in keys if key not in by_key]
    unknown = list(by_key.keys() - set(keys))
    for wrong, problem in ((missing, "missing"), (twice, "there twice"), (unknown, "not expected")):
        if wrong:
            names = name_rows((shots, row) for shots, _, row, _ in wrong)
            raise DataError(
                f"{len(wrong)} of {len(keys)} samples are {problem} ({names}); the shards are not "
                "of one evaluation: evaluate again into another run directory"
            )
    return [dict(by_key[key]) for key in keys]
