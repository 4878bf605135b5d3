from itertools import combinations
from math import comb, isclose, sqrt

import pytest

from rlvr_trainer.evaluation.statistics import mcnemar_exact, pass_at_k, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I,
        # method 3 (score).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_gives_the_published_values(
    successes: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_holds_the_shares_that_are_within_z_standard_errors() -> None:
    z = 1.959964
    for n in (1, 7, 50, 1319):
        for successes in {0, 1, n // 3, n - 1, n}:
            share = successes / n
            for bound in wilson_interval(successes, n):
                assert isclose(abs(share - bound), z * sqrt(bound * (1 - bound) / n), abs_tol=1e-12)


def test_wilson_interval_is_symmetric_within_zero_and_one_and_exact_at_the_ends() -> None:
    for n in (1, 3, 200):
        for successes in range(n + 1):
            low, high = wilson_interval(successes, n)
            mirrored = wilson_interval(n - successes, n)
            assert 0 <= low <= successes / n <= high <= 1
            assert (1 - high, 1 - low) == pytest.approx(mirrored)
        assert wilson_interval(0, n)[0] == 0
        assert wilson_interval(n, n)[1] == 1


def test_zero_trials_give_no_information() -> None:
    assert wilson_interval(0, 0) == (0, 1)


def test_a_count_is_from_zero_to_n() -> None:
    for successes, n in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match=f"{successes} of {n}"):
            wilson_interval(successes, n)


def test_mcnemar_is_the_binomial_test_of_a_fair_coin() -> None:
    def p_by_adding_outcomes(b: int, c: int) -> float:
        likely = [comb(b + c, i) / 2 ** (b + c) for i in range(b + c + 1)]
        return sum(p for p in likely if p <= likely[b] * (1 + 1e-9))

    for b in range(9):
        for c in range(9):
            assert mcnemar_exact(b, c) == pytest.approx(p_by_adding_outcomes(b, c))


@pytest.mark.parametrize(
    ("only_before", "only_after", "p"),
    [(0, 0, 1.0), (1, 5, 0.21875), (0, 6, 0.03125), (0, 5, 0.0625), (2, 10, 0.03857421875)],
)
def test_mcnemar_of_small_counts(only_before: int, only_after: int, p: float) -> None:
    assert mcnemar_exact(only_before, only_after) == p
    assert mcnemar_exact(only_after, only_before) == p


def test_mcnemar_of_a_whole_benchmark_does_not_overflow() -> None:
    assert 0 <= mcnemar_exact(40, 8752) < 1e-300
    assert mcnemar_exact(4396, 4396) == 1


def test_pass_at_k_is_the_share_of_the_draws_with_a_right_one() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_of_many_samples_is_stable() -> None:
    n, c, k = 2000, 13, 100
    exact = 1 - comb(n - c, k) / comb(n, k)
    assert pass_at_k(n, c, k) == pytest.approx(exact, rel=1e-12)
    assert pass_at_k(200, 40, 1) == pytest.approx(0.2)


def test_pass_at_k_needs_k_samples() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"pass@{k}"):
            pass_at_k(4, 1, k)
