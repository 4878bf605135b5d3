from typing import Any

import pytest

from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.evaluation.shards import Batch, Shard, batches, join, parse_shard
from rlvr_trainer.recipe.reader import parse_recipe
from rlvr_trainer.recipe.schema import Recipe
from rlvr_trainer.tasks import Row

ROWS = [Row(f"test-{i}", f"{i} + 1?", str(i + 1), "", {}) for i in range(10)]


def recipe(**evaluation: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "tiny",
            "model": {"name": "embedded:smollm2-135m-instruct"},
            "evaluation": {"batch_size": 4, "shots": [0, 2], **evaluation},
        }
    )


SAMPLED = {"pass_at_k": {"num_samples": 3, "k": [1]}}


def samples_of(requested: list[Batch]) -> list[dict[str, Any]]:
    return [
        {"shots": shots, "greedy": greedy, "id": id, "sample": sample}
        for batch in requested
        for shots, greedy, id, sample in batch.keys
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_the_parts_of_any_split_joined_are_the_whole_in_its_order(count: int) -> None:
    requested = batches(recipe(**SAMPLED), ROWS)
    parts = [samples_of(shard.of(requested)) for shard in Shard(0, count).all]

    assert join(parts[::-1], requested) == samples_of(requested)


def test_an_evaluation_asks_for_every_row_at_every_number_of_shots() -> None:
    keys = [key for batch in batches(recipe(**SAMPLED), ROWS) for key in batch.keys]

    assert len(keys) == len(set(keys)) == 2 * 10 * (1 + 3)
    assert keys[:2] == [(0, True, "test-0", 0), (0, True, "test-1", 0)]
    assert keys[10:12] == [(0, False, "test-0", 0), (0, False, "test-0", 1)]


def test_what_a_batch_draws_does_not_depend_on_the_split() -> None:
    whole = batches(recipe(**SAMPLED), ROWS)
    drawn = [batch for batch in whole if batch.temperature]

    assert len({batch.seed for batch in drawn}) == len(drawn)
    assert [batch for part in Shard(0, 3).all for batch in part.of(whole) if batch in drawn]
    assert batches(recipe(**SAMPLED), ROWS) == whole


def test_a_missing_sample_is_refused() -> None:
    requested = batches(recipe(), ROWS)
    parts = [samples_of(shard.of(requested)) for shard in Shard(0, 2).all]

    with pytest.raises(DataError, match=r"10 of 20 samples are missing \(test-4 at 0 shots"):
        join(parts[:1], requested)


def test_a_sample_that_is_there_twice_is_refused() -> None:
    requested = batches(recipe(), ROWS)
    whole = samples_of(requested)

    with pytest.raises(DataError, match=r"1 of 20 samples are there twice \(test-0 at 0 shots\)"):
        join([whole, whole[:1]], requested)


def test_samples_of_other_rows_are_refused() -> None:
    requested = batches(recipe(), ROWS)

    with pytest.raises(DataError, match="not expected"):
        join([samples_of(requested)], requested[1:])


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/0"])
def test_an_invalid_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="R/N"):
        parse_shard(text)


def test_a_part_is_written_as_it_is_read() -> None:
    assert parse_shard(Shard(1, 3).text) == Shard(1, 3)
