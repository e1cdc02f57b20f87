"""How sure a number is: the percentile bootstrap over test rows, or over groups of them.

Shares of rows that are right or wrong have intervals of their own: see `featurebank.probes.proportions`.

Shapes: M rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices
from featurebank.probes.metrics import as_labels, as_values
from featurebank.probes.weighted import Statistic

__all__ = ["bootstrap_interval", "bootstrap_means", "cluster_interval", "row_weights", "weighted_interval"]

_FEW = 32  # distinct values up to which resampled rows are drawn as counts


def bootstrap_means(values: ArrayLike, *, draws: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """The means, (draws,), of (M,) rows drawn with replacement.

    Rows of few distinct values are drawn as counts of each value, which has the same distribution and is quick.

    Raises:
        ValueError: there are no rows, or a value is not finite.
    """
    rows = as_values(values)
    generator = np.random.default_rng(seed)
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
    seed: int = 0,
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
        seed: of the draws.

    Raises:
        ValueError: the arrays differ in rows or have none, ``level`` is not between 0 and 1, or the metric raises it.
    """
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level must be between 0 and 1 and draws at least 1, got {level} and {draws}")
    if metric is None and strata is None and len(arrays) == 1:
        drawn = bootstrap_means(arrays[0], draws=draws, seed=seed)
    else:
        drawn = _drawn_metrics([np.asarray(array) for array in arrays], metric, strata, draws, seed)
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def row_weights(rows: int, *, draws: int, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Blocks (B, M) of how often each row was drawn, rows drawn with replacement as many as there are."""
    generator = np.random.default_rng(seed)
    for block in row_slices(draws, rows):
        size = block.stop - block.start
        taken = generator.integers(0, rows, (size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(taken.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def weighted_interval(
    statistic: Statistic, rows: int, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of row weights; draws that do not define it are passed over.

    Raises:
        ValueError: ``level`` is not between 0 and 1, ``draws`` is below 1, or no draw defines the statistic.
    """
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level must be between 0 and 1 and draws at least 1, got {level} and {draws}")
    drawn = np.concatenate([statistic(weights) for weights in row_weights(rows, draws=draws, seed=seed)])
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        raise ValueError(f"the metric must be defined for some drawn rows; found none in {draws} draws of {rows}")
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def cluster_interval(
    values: ArrayLike, clusters: ArrayLike, *, draws: int = 2000, level: float = 0.95, seed: int = 0
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
        seed: of the draws.

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
        lambda weights: weights @ sums / (weights @ sizes), len(sizes), draws=draws, level=level, seed=seed
    )


def _drawn_metrics(
    arrays: list[NDArray[Any]], metric: Callable[..., float] | None, strata: ArrayLike | None, draws: int, seed: int
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
    generator = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for draw in range(draws):
        taken = np.concatenate([own[generator.integers(0, len(own), len(own))] for own in members])
        drawn[draw] = of(*(array[taken] for array in arrays))
    return drawn
