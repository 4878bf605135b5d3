"""An evaluation in parts: which batches each part takes, and how the parts become one again.

The unit is the batch, whose completions do not depend on what ran before it. So the parts of any
split, joined, are what one process would have written.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr_trainer.data import at_most, load_rows
from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.run_dir.layout import SAMPLE_SHARDS

if TYPE_CHECKING:
    from pathlib import Path

    from rlvr_trainer.evaluation.outcome import Sample
    from rlvr_trainer.recipe.schema import Recipe
    from rlvr_trainer.tasks import Row

NUM_NAMED = 5
"""Rows that an error names."""


@dataclass(frozen=True)
class Shard:
    """One of `count` parts."""

    index: int = 0
    count: int = 1

    @property
    def text(self) -> str:
        """As `parse_shard` reads it."""
        return f"{self.index}/{self.count}"

    @property
    def key(self) -> str:
        """Where its samples lie in the run directory."""
        return f"{SAMPLE_SHARDS}/shard-{self.index}-of-{self.count}.jsonl"

    @property
    def all(self) -> tuple[Shard, ...]:
        """The parts that it is one of."""
        return tuple(Shard(index, self.count) for index in range(self.count))

    def of(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches that it takes: every `count`-th, so that short and long ones are shared."""
        return list(batches[self.index :: self.count])


Wanted = tuple["Row", int]
"""A row, and which of its completions."""

Key = tuple[int, bool, str, int]
"""Of a sample: shots, whether greedy, the row's id, and which of its completions."""


def parse_shard(text: str) -> Shard:
    """`R/N`, R from 0. Raises ConfigError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--shard {text!r} is no part of a whole; write R/N with R from 0 to N-1")
    return Shard(int(index), int(count))


@dataclass(frozen=True)
class Batch:
    """Completions that are generated together."""

    num_shots: int
    wanted: tuple[Wanted, ...]
    temperature: float = 0.0
    """0: greedy."""
    seed: int = 0
    """Of what is drawn."""

    @property
    def keys(self) -> Iterator[Key]:
        """What its samples are known by."""
        return (
            (self.num_shots, not self.temperature, row.id, sample) for row, sample in self.wanted
        )


def evaluated_rows(recipe: Recipe, data_dir: Path) -> list[Row]:
    """The test rows, or as many as the recipe asks for, in their order. Raises DataError."""
    rows = load_rows(data_dir, "test")
    return at_most(rows, recipe.evaluation.num_rows, f"evaluation-{recipe.seed}")


def batches(recipe: Recipe, rows: Sequence[Row]) -> list[Batch]:
    """All batches of an evaluation in their order: by shots, greedy ones before sampled ones."""
    size, drawn = recipe.evaluation.batch_size, recipe.evaluation.pass_at_k
    found: list[Batch] = []
    for num_shots in recipe.evaluated_shots:
        found += greedy_batches(rows, num_shots, size)
        if drawn:
            wanted = [(row, index) for row in rows for index in range(drawn.num_samples)]
            for cut in _cut(wanted, size):
                seed = random.Random(f"{recipe.seed} {len(found)}").getrandbits(32)
                found.append(Batch(num_shots, cut, drawn.temperature, seed))
    return found


def greedy_batches(rows: Sequence[Row], num_shots: int, size: int) -> list[Batch]:
    """One greedy completion for each row."""
    return [Batch(num_shots, cut) for cut in _cut([(row, 0) for row in rows], size)]


def _cut(wanted: Sequence[Wanted], size: int) -> Iterator[tuple[Wanted, ...]]:
    return (tuple(wanted[start : start + size]) for start in range(0, len(wanted), size))


def join(parts: Sequence[Sequence[Sample]], wanted: Sequence[Batch]) -> list[dict[str, Any]]:
    """The samples of all parts in the order of one evaluation.

    Raises DataError for a sample that is missing, there twice, or not wanted.
    """
    found: dict[Key, Sample] = {}
    twice = []
    for sample in (sample for part in parts for sample in part):
        key = (sample["shots"], sample["greedy"], sample["id"], sample["sample"])
        if key in found:
            twice.append(key)
        found[key] = sample
    expected = [key for batch in wanted for key in batch.keys]
    missing = [key for key in expected if key not in found]
    unknown = list(found.keys() - set(expected))
    for keys, problem in ((missing, "missing"), (twice, "there twice"), (unknown, "not wanted")):
        if keys:
            raise DataError(
                f"{len(keys)} of {len(expected)} samples are {problem} ({_name_some(keys)}); the "
                "parts are not of one evaluation: evaluate again into another run directory"
            )
    return [dict(found[key]) for key in expected]


def _name_some(keys: Sequence[Key]) -> str:
    names = [f"{row} at {shots} shots" for shots, _, row, _ in keys[:NUM_NAMED]]
    return ", ".join([*names, "…"] if len(keys) > NUM_NAMED else names)
