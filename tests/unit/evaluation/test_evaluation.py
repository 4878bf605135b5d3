import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlvr_trainer.errors import ConfigError, DataError
from rlvr_trainer.evaluation.comparison_tables import shots_table
from rlvr_trainer.evaluation.outcome import (
    compare,
    read_samples,
    summarise,
    verdict,
    write_json,
    write_samples,
)
from rlvr_trainer.evaluation.statistics import mcnemar_exact, wilson_interval
from rlvr_trainer.tables import Cell, Table, markdown, text


def sample(
    index: int, correct: bool, *, model: str = "before", shots: int = 8, **fields: Any
) -> dict[str, Any]:
    return {
        "model": model,
        "shots": shots,
        "id": f"test-{index}",
        "question": "2 + 2?",
        "answer": "4",
        "completion": " It is 4.",
        "extracted": None,
        "format": correct,
        "correct": correct,
        "flexible": True,
        "num_tokens": 10 + index,
        "sample": 0,
        "greedy": True,
        **fields,
    }  # fmt: skip


def samples(right: int, n: int, **fields: Any) -> list[dict[str, Any]]:
    """Return `n` samples; the first `right` are correct."""
    return [sample(index, index < right, **fields) for index in range(n)]


def test_evaluation_json_has_the_shape_of_the_contract() -> None:
    evaluation = compare(samples(17, 200), samples(122, 200, model="after"))
    entry = evaluation["shots"]["8"]
    low, high = wilson_interval(17, 200)
    assert evaluation["num_samples"] == 200
    assert entry["before"] == {
        "accuracy": 0.085,
        "low": low,
        "high": high,
        "format": 0.085,
        "flexible": 1.0,
        "mean_length": 109.5,
        "num_samples": 200,
    }
    assert entry["after"]["accuracy"] == 0.61
    assert (entry["num_samples"], entry["gained"], entry["lost"]) == (200, 105, 0)
    assert entry["mcnemar_p"] == mcnemar_exact(0, 105)
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation


def test_each_number_of_shots_is_compared_by_itself_and_fewest_come_first() -> None:
    before = samples(1, 4, shots=10) + samples(0, 4, shots=2)
    after = samples(4, 4, shots=2) + samples(2, 4, shots=10)
    evaluation = compare(before, after)
    assert list(evaluation["shots"]) == ["2", "10"]
    assert evaluation["num_samples"] == 4
    assert [entry["gained"] for entry in evaluation["shots"].values()] == [4, 1]


def test_rows_are_paired_by_id_in_any_order() -> None:
    before = [sample(0, True), sample(1, False), sample(2, True)]
    after = [sample(2, False), sample(0, True), sample(1, True)]
    entry = compare(before, after)["shots"]["8"]
    assert (entry["gained"], entry["lost"]) == (1, 1)


def test_a_row_that_only_one_model_answered_is_named() -> None:
    with pytest.raises(DataError, match=r"1 missing after \(test-3 at 8 shots\)"):
        compare(samples(1, 4), samples(1, 3))
    with pytest.raises(DataError, match=r"9 missing before .*test-0 at 1 shot, .*…"):
        compare(samples(1, 4), samples(1, 4) + samples(1, 9, shots=1))


def test_a_row_that_is_there_twice_is_refused() -> None:
    with pytest.raises(DataError, match="'test-0' at 8 shots is there twice"):
        compare(samples(1, 2) + samples(1, 1), samples(1, 2))


def test_without_greedy_samples_there_is_no_accuracy() -> None:
    with pytest.raises(DataError, match="none of the samples is greedy"):
        compare([], [])


def test_drawn_samples_count_for_pass_at_k_alone() -> None:
    drawn = [
        sample(row, index < right, greedy=False, sample=index)
        for row, right in ((0, 4), (1, 1))
        for index in range(4)
    ]
    summary = summarise([*samples(0, 2), *drawn], k=(1, 4, 16))["8"]
    assert summary["accuracy"] == 0
    assert summary["pass_at_k"] == {"1": 0.625, "4": 1.0}
    assert summarise([*samples(0, 2), *drawn], k=(2,))["8"]["pass_at_k"] == {"2": 0.75}


def test_pass_at_k_is_left_out_where_a_row_has_fewer_samples() -> None:
    drawn = [sample(0, True, greedy=False, sample=index) for index in range(3)]
    assert list(summarise([*samples(1, 1), *drawn], k=(1, 4))["8"]["pass_at_k"]) == ["1"]
    assert "pass_at_k" not in summarise(samples(1, 1), k=(1,))["8"]


def test_the_verdict_says_how_far_accuracy_rose() -> None:
    evaluation = compare(samples(17, 200), samples(122, 200))
    assert evaluation["verdict"] == (
        "Accuracy rose from 8.5 % to 61.0 % on 200 test rows (McNemar p < 0.001)."
    )


def test_the_verdict_says_that_accuracy_fell() -> None:
    assert compare(samples(30, 40), samples(20, 40))["verdict"] == (
        "Accuracy fell from 75.0 % to 50.0 % on 40 test rows (McNemar p = 0.002)."
    )


def test_the_verdict_claims_nothing_that_chance_explains() -> None:
    assert compare(samples(0, 20), samples(5, 20))["verdict"] == (
        "No significant change: accuracy was 0.0 % before and 25.0 % after on 20 test rows "
        "(McNemar p = 0.062)."
    )


def test_the_verdict_on_equal_answers_needs_no_test() -> None:
    assert compare(samples(1, 1), samples(1, 1))["verdict"] == (
        "No change: accuracy stayed at 100.0 %, every answer on 1 test row scored as before."
    )


def test_the_verdict_judges_the_p_that_it_shows() -> None:
    entry = compare(samples(17, 200), samples(40, 200))["shots"]["8"]
    for p, start in ((0.0494, "Accuracy rose"), (0.0496, "No significant change")):
        assert verdict({**entry, "mcnemar_p": p}).startswith(start)


def test_a_small_significant_change_is_shown_with_the_decimals_that_it_needs() -> None:
    entry = {
        "before": {"accuracy": 0.5000},
        "after": {"accuracy": 0.5003},
        "mcnemar_p": 0.01,
        "num_samples": 30_000,
        "gained": 9,
        "lost": 0,
    }
    assert verdict(entry).startswith("Accuracy rose from 50.00 % to 50.03 % on 30,000 test rows")


def test_the_verdict_is_about_the_trained_shots() -> None:
    before = samples(0, 9, shots=0) + samples(0, 9, shots=8)
    after = samples(9, 9, shots=0) + samples(0, 9, shots=8)
    assert "at 8 shots" in compare(before, after)["verdict"]
    evaluation = compare(before, after, trained_shots=0)
    assert evaluation["headline_shots"] == 0
    assert evaluation["verdict"].startswith(
        "Accuracy rose from 0.0 % to 100.0 % on 9 test rows at 0"
    )


def test_the_table_has_a_row_for_each_number_of_shots() -> None:
    table = shots_table(compare(samples(17, 200), samples(122, 200)))
    assert [dict(zip(table.heads, map(str, row), strict=True)) for row in table.rows] == [
        {
            "Shots": "8",
            "Rows": "200",
            "Before": "8.5 % (5.4–13.2)",
            "After": "61.0 % (54.1–67.5)",
            "McNemar p": "< 0.001",
            "Gained": "105",
            "Lost": "0",
            "Format": "8.5 % → 61.0 %",
            "Flexible": "100.0 % → 100.0 %",
            "Tokens": "110 → 110",
        }
    ]


def test_a_table_is_written_as_aligned_columns_and_as_markdown() -> None:
    table = Table(("Run", "Before"), [("a|b", Cell("8.5 %", "5.4–13.2")), ("long name", "–")])
    assert text(table).splitlines() == [
        "Run         Before",
        "a|b         8.5 % (5.4–13.2)",
        "long name   –",
    ]
    assert markdown(table).splitlines() == [
        "| Run | Before |",
        "| --- | ---: |",
        r"| a\|b | 8.5 % (5.4–13.2) |",
        "| long name | – |",
    ]


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [sample(0, True, completion="a\u2028b\x85\n\ud83d\u202e"), sample(1, False)]
    write_samples(tmp_path / "samples.jsonl", written)
    assert read_samples(tmp_path / "samples.jsonl") == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": "befo', "line 2: not JSON"),
        ('{"model": "before"}', "line 2: not a sample, without answer, completion"),
        ("[]", "line 2: not a sample"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(sample(0, True)) + "\n" + text + "\n")
    with pytest.raises(DataError, match=message):
        read_samples(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe{}")
    for name in ("missing.jsonl", "latin.jsonl", "."):
        with pytest.raises(DataError, match="cannot be read"):
            read_samples(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_file_and_no_fragment(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"accuracy": math.nan})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    for name in ("file/evaluation.json", "directory"):
        with pytest.raises(ConfigError, match="cannot be written"):
            write_json(tmp_path / name, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]
