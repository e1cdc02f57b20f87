"""Intervals of shares against SciPy, published examples and their exact coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from featurebank.probes.intervals import (
    auroc_interval,
    cluster_interval,
    delong_interval,
    gap_interval,
    mean_interval,
    paired_interval,
    wilson_interval,
)

Z = stats.norm.ppf(0.975)


def coverage(ends: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], p: float, n: int) -> float:
    """How often the interval of hits among n rows holds p, exactly."""
    hits = np.arange(n + 1)
    low, high = ends(hits, n)
    return float(stats.binom.pmf(hits, n, p)[(low <= p) & (p <= high)].sum())


def test_a8_all_right_is_not_certain_and_the_interval_is_scipys() -> None:
    low, high = wilson_interval(10, 10)
    assert (round(float(low), 3), float(high)) == (0.722, 1.0)
    for hits, rows in ((0, 1), (0, 7), (3, 7), (98, 100), (1, 1)):
        expected = stats.binomtest(hits, rows).proportion_ci(method="wilson")
        found = [float(end) for end in wilson_interval(hits, rows)]
        assert found == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_a8_the_interval_of_98_percent_of_100_rows_holds_it_19_times_of_20() -> None:
    def bootstrap(hits: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        return stats.binom.ppf(0.025, n, hits / n) / n, stats.binom.ppf(0.975, n, hits / n) / n

    assert coverage(bootstrap, 0.98, 100) == pytest.approx(0.87, abs=0.01)
    assert coverage(wilson_interval, 0.98, 100) > 0.94
    for p in (0.5, 0.9, 0.95, 0.99):
        assert coverage(wilson_interval, p, 100) > 0.92


def test_a8_the_mean_of_shares_and_paired_differences_hold_theirs() -> None:
    generator = np.random.default_rng(0)
    shares, rows = np.array([0.99, 0.97, 0.9, 0.6]), np.array([20, 40, 30, 10])
    ends = np.array([mean_interval(generator.binomial(rows, shares), rows) for _ in range(2000)])
    assert ((ends[:, 0] <= shares.mean()) & (shares.mean() <= ends[:, 1])).mean() > 0.94
    assert mean_interval([10] * 10, [10] * 10)[0] == pytest.approx(1 - (1 - 0.72246) / np.sqrt(10), abs=1e-4)
    counts = generator.multinomial(60, [0.06, 0.02, 0.92], 2000)
    ends = np.array([paired_interval(int(b), int(c), 60) for b, c, _ in counts])
    assert ((ends[:, 0] <= 0.04) & (ends[:, 1] >= 0.04)).mean() > 0.94


def test_a8_the_interval_of_an_auroc_near_1_holds_it() -> None:
    generator = np.random.default_rng(0)
    shift, n, m = 3.0, 15, 20
    truth = float(stats.norm.cdf(shift / np.sqrt(2)))
    held = perfect = 0
    for _ in range(600):
        first, second = generator.standard_normal(n) + shift, generator.standard_normal(m)
        value = float((first[:, None] > second).mean())
        low, high = auroc_interval(value, n, m)
        held += low <= truth <= high
        perfect += value == 1.0
    assert perfect > 60  # where a bootstrap says (1, 1)
    assert held > 0.93 * 600
    assert auroc_interval(0.0, 10, 10) == pytest.approx((0.0, 1 - auroc_interval(1.0, 10, 10)[0]))


def counted(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each at every distinct score of both, ascending."""
    distinct = np.unique(np.concatenate([first, second]))
    return (first[:, None] == distinct).sum(0), (second[:, None] == distinct).sum(0)


@pytest.mark.parametrize("digits", [None, 1, 0])
def test_delongs_variance_is_that_of_the_pairs(digits: int | None) -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(1, 1, 40), generator.normal(0, 2, 70)
    if digits is not None:
        first, second = first.round(digits), second.round(digits)
    wins = (first[:, None] > second) + (first[:, None] == second) / 2
    area = wins.mean()
    variance = wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 70
    half = Z * np.sqrt(variance) / (area * (1 - area))
    ends = [1 / (1 + np.exp(-(np.log(area / (1 - area)) + sign * half))) for sign in (-1, 1)]
    assert delong_interval(*counted(first, second)) == pytest.approx(ends, rel=1e-12)


def test_delongs_interval_holds_the_auroc_19_times_of_20() -> None:
    generator = np.random.default_rng(0)
    for shift, n, m in ((0.0, 30, 40), (1.0, 30, 40), (3.0, 30, 40)):
        truth = float(stats.norm.cdf(shift / np.sqrt(2)))
        held = 0
        for _ in range(400):
            first, second = generator.standard_normal(n) + shift, generator.standard_normal(m)
            low, high = delong_interval(*counted(first, second))
            held += low <= truth <= high
        assert 0.92 * 400 < held < 0.99 * 400


def test_without_variance_the_interval_is_newcombes() -> None:
    assert delong_interval([0, 20], [30, 0]) == auroc_interval(1.0, 20, 30)
    assert delong_interval([20, 0], [0, 30]) == auroc_interval(0.0, 20, 30)
    assert delong_interval([20], [30]) == auroc_interval(0.5, 20, 30)
    assert delong_interval([0, 1, 0], [1, 0, 1]) != auroc_interval(0.5, 1, 2)
    assert delong_interval([1, 0], [0, 1]) == auroc_interval(0.0, 1, 1)


def test_newcombes_and_bonett_and_prices_examples() -> None:
    low, high = gap_interval([56, 48], [70, 80])  # Newcombe 1998, table II, method 10
    assert (round(float(low), 4), round(float(high), 4)) == (0.0524, 0.3339)
    low, high = gap_interval([9, 3], [10, 10])
    assert (round(float(low), 4), round(float(high), 4)) == (0.1705, 0.8090)
    b, c, n = 12, 4, 80
    middle, size = (b - c) / (n + 2), n + 2
    half = Z * np.sqrt(((b + 1) / size + (c + 1) / size - middle**2) / size)
    assert paired_interval(b, c, n) == pytest.approx((middle - half, middle + half), rel=1e-12)
    assert paired_interval(10, 0, 10)[1] == 1.0


def test_a_group_without_rows_has_no_share() -> None:
    low, high = gap_interval([[5, 3], [2, 0], [4, 0]], [[9, 3], [9, 0], [9, 0]])
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True]
    assert [float(end[0]) for end in (low, high)] == pytest.approx(
        [float(end) for end in gap_interval([5, 2, 4], [9, 9, 9])], rel=1e-12
    )


def test_a9_drawn_clusters_hold_the_mean_that_drawn_rows_miss() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(150):
        effects = generator.normal(0.6, 0.1, 40)
        clusters = np.repeat(np.arange(40), 25)
        low, high = cluster_interval(effects[clusters], clusters, draws=400, random_state=seed)
        held += low <= 0.6 <= high
    assert held > 0.88 * 150
    values = np.array([1.0, 0.0, 0.5, 0.25, 0.75])
    low, high = cluster_interval(values, np.arange(5), draws=20000)
    drawn = values[np.random.default_rng(3).integers(0, 5, (20000, 5))].mean(1)
    np.testing.assert_allclose((low, high), np.quantile(drawn, (0.025, 0.975)), atol=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(3, 2), "hits must be in 0..rows and rows at least 1"),
        (lambda: wilson_interval(0, 0), "rows at least 1"),
        (lambda: wilson_interval(1, 2, level=95), "level must be between 0 and 1"),
        (lambda: auroc_interval(1.2, 3, 3), "an AUROC must be in 0..1"),
        (lambda: delong_interval([1, 2], [0, 0]), "rows of both classes, got 3 and 0"),
        (lambda: cluster_interval([1.0, 2.0], [0, 0]), "at least two, got one of 2 rows"),
        (lambda: cluster_interval([1.0, 2.0], [0]), r"one for each of 2 rows, got \(1,\)"),
    ],
)
def test_bad_input_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
