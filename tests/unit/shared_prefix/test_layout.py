from __future__ import annotations

import pytest

from rlvr_trainer.shared_prefix.packed_layout import Run, Segment, common_prefix_length, pack, runs


def test_the_header_and_each_distinct_question_appear_once_whatever_the_order_of_rows() -> None:
    batch = pack([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3]], [[7, 8], [9, 10, 11], [12, 13]])
    assert batch.input_ids == [1, 2, 3, 4, 5, 7, 12, 9, 10]
    assert batch.position_ids == [0, 1, 2, 2, 3, 3, 3, 4, 5]
    assert batch.layout.header_length == 2
    assert batch.layout.questions == (Segment(2, 1), Segment(3, 2))
    assert batch.layout.answers == (Segment(5, 2), Segment(7, 2))


def test_every_completion_token_is_predicted_by_the_token_before_it() -> None:
    batch = pack([[1, 2, 3], [1, 2, 4, 5]], [[7, 8], [9]])
    tokens = zip(batch.rows, batch.columns, batch.predictors, batch.targets, strict=True)
    scored = {(row, column): (batch.input_ids[p], target) for row, column, p, target in tokens}
    assert scored == {(0, 0): (3, 7), (0, 1): (7, 8), (1, 0): (5, 9)}


def test_a_row_without_completion_costs_nothing() -> None:
    assert pack([[1, 2, 3], [4, 5]], [[7], []]).input_ids == [1, 2, 3]


def test_no_row_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        pack([[1, 2]], [[]])


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        # A question keeps one token: it predicts the first completion token.
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1, 2], [1, 2, 4]], 1),
        ([[1], [1, 2]], 0),
        ([[1, 2], [3, 2]], 0),
    ],
)
def test_common_prefix(prompts: list[list[int]], length: int) -> None:
    assert common_prefix_length(prompts) == length


def test_adjacent_segments_of_one_length_form_a_run() -> None:
    assert runs([Segment(0, 2), Segment(2, 2), Segment(4, 3)]) == [Run(0, 2, 2), Run(4, 3, 1)]
