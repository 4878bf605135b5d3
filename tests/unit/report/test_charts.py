import itertools
import math

import pytest

from rlvr_trainer.report.charts import (
    Category,
    Series,
    comparison,
    interval_bars,
    nice_ticks,
    number,
    over_steps,
    running_mean,
)

WEAK = {"accuracy": 0.085, "low": 0.054, "high": 0.132}
STRONG = {"accuracy": 0.61, "low": 0.541, "high": 0.675}


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0, 0.97), (0, 38.4), (-0.3, 1.2), (0, 3e-5), (0, 0), (5, 5), (0, 2e6)],
)
def test_ticks_are_few_even_and_enclose_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    steps = {
        round((two - one) / (ticks[1] - ticks[0]), 6) for one, two in itertools.pairwise(ticks)
    }
    assert ticks[0] <= low
    assert high <= ticks[-1]
    assert 2 <= len(ticks) <= 7
    assert steps == {1}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (0.5, "0.50"),
        (0.0042, "0.0042"),
        (25.44, "25.4"),
        (1234.5, "1,234"),
        (3e-6, "3.00e-06"),
    ],
)
def test_a_number_has_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_running_mean_looks_back_only() -> None:
    points = [(step, float(step > 15)) for step in range(1, 31)]
    assert running_mean(points)[14:18] == [(15, 0), (16, 1 / 3), (17, 2 / 3), (18, 1)]


def test_bars_are_as_long_as_the_accuracy_and_their_lines_as_the_interval() -> None:
    svg = interval_bars(WEAK, STRONG)
    assert 'width="8.50%"' in svg
    assert 'width="61.00%"' in svg
    assert 'x1="54.10%"' in svg
    assert 'x2="67.50%"' in svg


def test_a_chart_says_in_words_what_it_shows() -> None:
    svg = interval_bars(WEAK, STRONG)
    assert 'role="img" aria-labelledby="accuracy-title accuracy-desc"' in svg
    assert "Before: 8.5 %, 95 % interval 5.4–13.2 %. After: 61.0 %" in svg
    svg = over_steps(Series("series-0", "Reward", "mean", [(1, 0.25), (2, 1.25), (3, 1.0)]))
    assert '<title id="series-0-title">Reward by optimizer step</title>' in svg
    assert "0.25 at step 1, 1.00 at step 3; lowest 0.25, highest 1.25." in svg


def test_a_line_joins_categories_only_where_they_have_an_order() -> None:
    categories = [Category("2", WEAK, STRONG), Category("8", WEAK, STRONG)]
    assert 'class="join after"' in comparison("a", "A", "shots", categories, connect=True)
    assert 'class="join after"' not in comparison("a", "A", "model", categories, connect=False)


def test_one_step_is_a_chart_too() -> None:
    svg = over_steps(Series("one", "Reward", "mean", [(7, 0.0)]))
    assert "NaN" not in svg
    assert svg.count("<circle") == 1


def test_a_long_run_stays_a_small_chart() -> None:
    points = [(step, math.sin(step)) for step in range(20_000)]
    assert len(over_steps(Series("long", "Reward", "mean", points))) < 20_000
