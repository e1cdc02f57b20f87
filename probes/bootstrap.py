"""How sure a number is: the percentile bootstrap over test rows.

Shapes: M rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices
from featurebank.probes.metrics import as_labels, as_values

__all__ = ["bootstrap_interval", "bootstrap_means"]

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
