"""Pareto fronts: what nothing else beats in everything that counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["pareto_front"]


def pareto_front(gains: ArrayLike) -> NDArray[np.bool_]:
    """Which of N points no other dominates: one that is at least as good in everything, and better in something.

    Points that are equal in everything are on the front together, or not.

    Args:
        gains: (N, D) numbers of which more is better; of a cost its negative, as `Metric.gain` gives it.

    Returns:
        (N,) bool.

    Raises:
        ValueError: not such a table, or a number is missing.

    >>> pareto_front([[0.9, -30.0], [0.8, -10.0], [0.8, -20.0], [0.9, -30.0]]).tolist()
    [True, True, False, True]
    """
    points = np.asarray(gains, np.float64)
    if points.ndim != 2 or np.isnan(points).any():
        raise ValueError(
            f"gains must be (N, D) numbers, none of them missing; found shape {points.shape} with "
            f"{np.isnan(points).sum()} missing; leave such points out"
        )
    as_good = (points[:, None] >= points[None]).all(axis=2)
    return np.asarray(~np.any(as_good & ~as_good.T, axis=0), np.bool_)
