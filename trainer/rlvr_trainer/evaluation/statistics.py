"""Statistics of an evaluation as functions of counts: intervals, a paired test, pass@k."""

from __future__ import annotations

from math import prod, sqrt

SIGNIFICANCE = 0.05
"""A change with a larger McNemar p is reported as no significant change."""


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the score interval of a share (Wilson, 1927), by default 95 %.

    Unlike share ± z·s.e. it stays within 0 and 1 and is not empty at 0 or `n` successes. Without
    trials (`n` = 0) it is (0, 1).
    """
    _check_count(successes, n)
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, z * z
    centre = share + z2 / (2 * n)
    half_width = z * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = (centre - half_width) / (1 + z2 / n), (centre + half_width) / (1 + z2 / n)
    # At 0 and n the exact bound is known, without the square root's rounding error.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def mcnemar_exact(only_before: int, only_after: int) -> float:
    """Return the two-sided p-value of McNemar's exact test on paired right and wrong answers.

    If the two models were equally good, each row that changed would be a fair coin flip (McNemar,
    1947, with the binomial distribution in place of χ²).
    """
    n = only_before + only_after
    _check_count(only_before, n)
    tail, ways = 0, 1
    for i in range(min(only_before, only_after) + 1):
        tail += ways  # C(n, i)
        ways = ways * (n - i) // (i + 1)
    return min(1.0, 2 * tail / (1 << n))


def is_significant(p: float) -> bool:
    """Return True if `p`, rounded as it is displayed, is below SIGNIFICANCE."""
    return round(p, 3) < SIGNIFICANCE


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate the probability that one of `k` completions is right, from `c` of `n`.

    The unbiased estimator 1 - C(n-c, k) / C(n, k), as a product that does not overflow
    (Chen et al., 2021, arXiv 2107.03374, figure 3).
    """
    _check_count(c, n)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} completions; k is from 1 to n")
    if n - c < k:
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def _check_count(count: int, n: int) -> None:
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is not a count; it must be from 0 to {n}")
