"""How sure a number is: intervals of shares by Wilson, of AUROCs by DeLong, of any metric by the bootstrap.

Wilson's interval of a share is never of width 0: a bootstrap of rows that are right or wrong says (1, 1) where all are
right, and holds the true share too rarely near 0 and 1. Means and differences of shares get their interval from those
of the shares (MOVER: Zou & Donner 2008). The bootstrap's are percentiles, over rows or over groups of them.

Shapes: M rows, G groups, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices
from featurebank.probes.metrics import as_labels, as_values
from featurebank.probes.weighted import Statistic, check_draws, percentiles

__all__ = [
    "auroc_interval",
    "bootstrap_interval",
    "bootstrap_means",
    "cluster_interval",
    "delong_interval",
    "gap_interval",
    "mean_interval",
    "paired_interval",
    "row_weights",
    "weighted_interval",
    "wilson_interval",
]

Ends = tuple[NDArray[np.float64], NDArray[np.float64]]

_FEW = 32  # distinct values up to which resampled rows are drawn as counts


def wilson_interval(hits: ArrayLike, rows: ArrayLike, *, level: float = 0.95) -> Ends:
    """The score interval of shares ``hits / rows`` of any one shape (Wilson 1927).

    >>> low, high = wilson_interval(10, 10)
    >>> round(float(low), 3), float(high)
    (0.722, 1.0)

    Raises:
        ValueError: no rows, hits outside 0..rows, or ``level`` not between 0 and 1.
    """
    successes, n = np.asarray(hits, np.float64), np.asarray(rows, np.float64)
    if not ((n >= 1) & (successes >= 0) & (successes <= n)).all():
        raise ValueError(f"hits must be in 0..rows and rows at least 1, got {hits!r} of {rows!r}")
    z = _z(level)
    share = successes / n
    middle = share + z**2 / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return np.where(successes == 0, 0.0, low), np.where(successes == n, 1.0, high)


def mean_interval(hits: ArrayLike, rows: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """The interval of the mean of K shares of their own rows, such as balanced accuracy.

    Args:
        hits: (K,).
        rows: (K,), at least 1 each.
        level: of the interval.

    Raises:
        ValueError: as `wilson_interval`.
    """
    shares = np.asarray(hits, np.float64) / np.asarray(rows, np.float64)
    low, high = wilson_interval(hits, rows, level=level)
    mean, n = float(shares.mean()), shares.size
    below, above = (float(np.sqrt(np.square(end - shares).sum()) / n) for end in (low, high))
    return max(mean - below, 0.0), min(mean + above, 1.0)


def gap_interval(hits: ArrayLike, rows: ArrayLike, *, level: float = 0.95) -> Ends:
    """The interval of the greatest minus the least of G independent shares; of two, Newcombe's (1998, method 10).

    The lower end is that of the two extreme groups, the upper one the greatest of any two groups. Groups without rows
    have no share; NaN where fewer than two have one.

    >>> low, high = gap_interval([56, 48], [70, 80])
    >>> round(float(low), 4), round(float(high), 4)
    (0.0524, 0.3339)

    Args:
        hits: (G, …).
        rows: (G, …).
        level: of the interval.

    Returns:
        Lower and upper ends, (…) each.
    """
    successes, n = np.asarray(hits, np.float64), np.asarray(rows, np.float64)
    defined = n > 0
    counted = np.where(defined, n, 1.0)
    shares = np.where(defined, successes, 0.0) / counted
    low, high = wilson_interval(np.where(defined, successes, 0.0), counted, level=level)
    below, above = np.square(shares - low), np.square(high - shares)
    best = np.where(defined, shares, -np.inf).argmax(0)[None]
    worst = np.where(defined, shares, np.inf).argmin(0)[None]
    of = np.take_along_axis
    gap = of(shares, best, 0) - of(shares, worst, 0)
    lower = np.maximum(gap - np.sqrt(of(below, best, 0) + of(above, worst, 0)), 0.0)[0]
    upper = np.zeros_like(lower)
    for group in range(len(shares)):
        ends = np.where(defined & defined[group], shares[group] - shares + np.sqrt(above[group] + below), 0.0)
        ends[group] = 0.0
        upper = np.maximum(upper, ends.max(0))
    several = defined.sum(0) > 1
    return np.where(several, lower, np.nan), np.where(several, np.minimum(upper, 1.0), np.nan)


def paired_interval(only_first: int, only_second: int, rows: int, *, level: float = 0.95) -> tuple[float, float]:
    """The interval of a difference of two shares of the same rows (Bonett & Price 2012: one row more of each kind).

    >>> [round(end, 3) for end in paired_interval(0, 0, 10)]
    [-0.231, 0.231]

    Args:
        only_first: rows that only the first has right.
        only_second: rows that only the second has right.
        rows: all of them.
        level: of the interval.
    """
    first, second, n = only_first + 1, only_second + 1, rows + 2
    middle = (first - second) / n
    half = _z(level) * float(np.sqrt(((first + second) / n - middle**2) / n))
    return max(middle - half, -1.0), min(middle + half, 1.0)


def auroc_interval(value: float, positives: int, negatives: int, *, level: float = 0.95) -> tuple[float, float]:
    """The score interval of an AUROC (Newcombe 2006, method 5), which keeps a width where nothing overlaps.

    >>> [round(end, 3) for end in auroc_interval(1.0, 10, 10)]
    [0.8, 1.0]

    Args:
        value: of the AUROC, in 0..1.
        positives: rows of class 1.
        negatives: rows of class 0.
        level: of the interval.

    Raises:
        ValueError: the value is outside 0..1, a class has no rows, or ``level`` is not between 0 and 1.
    """
    if not 0 <= value <= 1 or min(positives, negatives) < 1:
        raise ValueError(
            f"an AUROC must be in 0..1 of rows of both classes, got {value} of {positives} and {negatives}"
        )
    z, n = _z(level), (positives + negatives) / 2 - 1

    def beyond(area: float) -> bool:
        spread = 1 + n * (1 - area) / (2 - area) + n * area / (1 + area)
        return (value - area) ** 2 > z**2 * area * (1 - area) * spread / (positives * negatives)

    ends = []
    for bound in (0.0, 1.0):
        inner, outer = value, bound
        for _ in range(60):
            middle = (outer + inner) / 2
            outer, inner = (middle, inner) if beyond(middle) else (outer, middle)
        ends.append(inner)
    return ends[0], ends[1]


def delong_interval(positives: ArrayLike, negatives: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """The interval of an AUROC by DeLong's variance (DeLong, DeLong & Clarke-Pearson 1988), symmetric in its logit.

    `auroc_interval` where all rows of a class stand alike to the other class, which leaves no variance.

    >>> [round(end, 3) for end in delong_interval([0, 1, 1, 2], [2, 1, 1, 0])]
    [0.427, 0.985]

    Args:
        positives: (S,) rows of class 1 at each of S scores, ascending.
        negatives: (S,) rows of class 0.
        level: of the interval.

    Raises:
        ValueError: a class has no rows, or ``level`` is not between 0 and 1.
    """
    sides = [np.asarray(counts, np.float64) for counts in (positives, negatives)]
    rows = [int(counts.sum()) for counts in sides]
    if min(rows) < 1:
        raise ValueError(f"an AUROC needs rows of both classes, got {rows[0]} and {rows[1]}")
    below = (sides[1].cumsum() - sides[1] / 2) / rows[1]
    above = 1 - (sides[0].cumsum() - sides[0] / 2) / rows[0]
    area = float(sides[0] @ below) / rows[0]
    variance = sum(
        float(counts @ np.square(placed - area)) / ((n - 1) * n) if n > 1 else 0.0
        for counts, placed, n in zip(sides, (below, above), rows, strict=True)
    )
    if not 0 < area < 1 or variance == 0:
        return auroc_interval(area, *rows, level=level)
    middle, half = np.log(area / (1 - area)), _z(level) * np.sqrt(variance) / (area * (1 - area))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (middle - half, middle + half))
    return low, high


def bootstrap_means(values: ArrayLike, *, draws: int = 2000, random_state: int = 0) -> NDArray[np.float64]:
    """The means, (draws,), of (M,) rows drawn with replacement.

    Rows of few distinct values are drawn as counts of each value, which has the same distribution and is quick.

    Raises:
        ValueError: there are no rows, or a value is not finite.
    """
    rows = as_values(values)
    generator = np.random.default_rng(random_state)
    n = len(rows)
    if rows.dtype == np.bool_:
        return generator.binomial(n, rows.mean(), size=draws) / n
    distinct, counts = np.unique(rows, return_counts=True)
    if len(distinct) <= _FEW:
        drawn = generator.multinomial(n, counts / n, size=draws)
        return np.asarray(drawn @ distinct.astype(np.float64) / n)
    means = np.empty(draws)
    for block in row_slices(draws, n):
        means[block] = rows[generator.integers(0, n, (block.stop - block.start, n))].mean(1, dtype=np.float64)
    return means


def bootstrap_interval(
    *arrays: ArrayLike,
    metric: Callable[..., float] | None = None,
    strata: ArrayLike | None = None,
    draws: int = 2000,
    level: float = 0.95,
    random_state: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a metric over rows drawn with replacement.

    >>> bootstrap_interval(np.ones(10, bool))
    (1.0, 1.0)

    Args:
        arrays: (M, …) each, in the order the metric takes them; without a metric one (M,) array, whose mean is meant.
        metric: a function of the drawn rows of ``arrays``, such as `auroc`.
        strata: (M,) integers; each is drawn from on its own and keeps its size. The labels as strata keep every class
            in every draw, which ranking metrics need.
        draws: resamples.
        level: of the interval.
        random_state: of the draws.

    Raises:
        ValueError: the arrays differ in rows or have none, ``level`` is not between 0 and 1, or the metric raises it.
    """
    check_draws(draws, level)
    if metric is None and strata is None and len(arrays) == 1:
        drawn = bootstrap_means(arrays[0], draws=draws, random_state=random_state)
    else:
        drawn = _drawn_metrics([np.asarray(array) for array in arrays], metric, strata, draws, random_state)
    return percentiles(drawn, level)


def row_weights(rows: int, *, draws: int, random_state: int = 0) -> Iterator[NDArray[np.float64]]:
    """Blocks (B, M) of how often each row was drawn, rows drawn with replacement as many as there are."""
    generator = np.random.default_rng(random_state)
    for block in row_slices(draws, rows):
        size = block.stop - block.start
        taken = generator.integers(0, rows, (size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(taken.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def weighted_interval(
    statistic: Statistic, rows: int, *, draws: int = 2000, level: float = 0.95, random_state: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of row weights; draws that do not define it are passed over.

    Raises:
        ValueError: ``level`` is not between 0 and 1, ``draws`` is below 1, or no draw defines the statistic.
    """
    check_draws(draws, level)
    drawn = np.concatenate(
        [statistic(weights) for weights in row_weights(rows, draws=draws, random_state=random_state)]
    )
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        raise ValueError(f"the metric must be defined for some drawn rows; found none in {draws} draws of {rows}")
    return percentiles(drawn, level)


def cluster_interval(
    values: ArrayLike, clusters: ArrayLike, *, draws: int = 2000, level: float = 0.95, random_state: int = 0
) -> tuple[float, float]:
    """The interval of a mean of (M,) values whose clusters, not rows, are drawn with replacement, all rows of each.

    >>> low, high = cluster_interval([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"])
    >>> low, high
    (0.0, 1.0)

    Args:
        values: (M,) finite.
        clusters: (M,) the cluster of each row.
        draws: resamples.
        level: of the interval.
        random_state: of the draws.

    Raises:
        ValueError: as `weighted_interval`, other shapes, or fewer than two clusters.
    """
    of, names = as_values(values), np.asarray(clusters)
    if names.shape != of.shape:
        raise ValueError(f"clusters must be one for each of {len(of)} rows, got {names.shape}")
    numbers = np.unique(names, return_inverse=True)[1]
    sizes = np.bincount(numbers).astype(np.float64)
    if len(sizes) < 2:
        raise ValueError(f"an interval over clusters needs at least two, got one of {len(of)} rows")
    sums = np.bincount(numbers, of)
    return weighted_interval(
        lambda weights: weights @ sums / (weights @ sizes),
        len(sizes),
        draws=draws,
        level=level,
        random_state=random_state,
    )


def _drawn_metrics(
    arrays: list[NDArray[Any]],
    metric: Callable[..., float] | None,
    strata: ArrayLike | None,
    draws: int,
    random_state: int,
) -> NDArray[np.float64]:
    if not arrays or any(array.ndim < 1 or len(array) != len(arrays[0]) for array in arrays) or not len(arrays[0]):
        raise ValueError(f"arrays must have the same rows, at least one, got {[array.shape for array in arrays]}")
    if metric is None and len(arrays) > 1:
        raise ValueError(f"{len(arrays)} arrays need a metric of as many arguments, got None")
    rows = len(arrays[0])
    members = [np.arange(rows)]
    if strata is not None:
        numbers = np.unique(as_labels(strata, rows=rows, name="strata"), return_inverse=True)[1]
        members = np.split(np.argsort(numbers, kind="stable"), np.bincount(numbers).cumsum()[:-1])
    of = metric or (lambda values: float(as_values(values).mean(dtype=np.float64)))
    generator = np.random.default_rng(random_state)
    drawn = np.empty(draws)
    for draw in range(draws):
        taken = np.concatenate([own[generator.integers(0, len(own), len(own))] for own in members])
        drawn[draw] = of(*(array[taken] for array in arrays))
    return drawn


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
