"""Is a classifier as good for every group of rows: camera, hospital, skin type, any column of a feature set?

Shapes: M rows, G groups, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.intervals import gap_interval, wilson_interval
from featurebank.probes.metrics import as_labels, predicted_classes

__all__ = ["GroupReport", "RateGaps", "group_report"]

SMALL = 30


@dataclass(frozen=True, kw_only=True)
class RateGaps:
    """How far a rate of each class lies apart between groups: the greatest minus the least.

    Attributes:
        values: (K,) float64, NaN where fewer than two groups have the rate.
        low: (K,) float64, lower end of the 95 % interval, of Wilson's intervals of the groups' rates; see
            `featurebank.probes.intervals.gap_interval`.
        high: (K,) float64, upper end.
    """

    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """Accuracy and rates per group, and how far the groups lie apart.

    Attributes:
        groups: (G,) the values of the column, sorted.
        sizes: (G,) int64 rows.
        accuracy: (G,) float64.
        low: (G,) float64, lower end of the accuracy's 95 % interval, Wilson's.
        high: (G,) float64, upper end.
        worst: the group of least accuracy, the first of several.
        gap: greatest minus least accuracy of a group.
        gap_low: lower end of its 95 % interval, as in `RateGaps`.
        gap_high: upper end.
        demographic_parity: gaps of P(predicted k).
        true_positive: gaps of P(predicted k | labelled k), between groups with rows of class k.
        false_positive: gaps of P(predicted k | not labelled k), between groups with rows of another class.
        equalised_odds: the greater of those two, where both are defined.
        warnings: what keeps the numbers from being trusted: groups of few rows, classes missing from a group.
    """

    groups: NDArray[Any]
    sizes: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    worst: Any
    gap: float
    gap_low: float
    gap_high: float
    demographic_parity: RateGaps
    true_positive: RateGaps
    false_positive: RateGaps
    equalised_odds: RateGaps
    warnings: tuple[str, ...]


def group_report(
    labels: ArrayLike,
    predictions: ArrayLike,
    groups: ArrayLike,
    *,
    classes: int | None = None,
    small: int = SMALL,
) -> GroupReport:
    """Compares groups of the same test rows.

    Demographic parity and equalised odds as Hardt et al. 2016 (arXiv:1610.02413), one class against the others.

    >>> report = group_report([0, 1, 0, 1], [0, 1, 1, 1], ["a", "a", "b", "b"])
    >>> print(report.worst, report.gap, report.demographic_parity.values)
    b 0.5 [0.5 0.5]

    Args:
        labels: (M,).
        predictions: (M,) classes or (M, K) scores.
        groups: (M,) strings, integers or bool: the group of each row.
        classes: K; the width of the scores, or one more than the greatest class seen, if None.
        small: rows below which a group is warned about.

    Raises:
        ValueError: the arrays differ in rows, ``groups`` holds something else, fewer than two groups, or labels or
            predictions outside 0..K-1.
    """
    if classes is None and np.ndim(predictions) == 2:
        classes = np.shape(predictions)[1]
    truth = as_labels(labels, classes=classes)
    predicted = as_labels(predicted_classes(predictions, rows=len(truth)), classes=classes, name="predictions")
    names, index = _numbered(groups, len(truth))
    K = classes or int(max(truth.max(), predicted.max())) + 1
    sizes = np.bincount(index)
    correct = truth == predicted
    right = np.bincount(index, correct)
    accuracy = right / sizes
    low, high = wilson_interval(right, sizes)
    gap_low, gap_high = gap_interval(right, sizes)
    labelled, guessed, hits = (
        np.bincount(index[rows] * K + values[rows], minlength=len(names) * K).reshape(-1, K)
        for rows, values in ((slice(None), truth), (slice(None), predicted), (correct, truth))
    )
    everyone = np.broadcast_to(sizes[:, None], labelled.shape)
    true_positive = _rate_gap(hits, labelled)
    false_positive = _rate_gap(guessed - hits, everyone - labelled)
    return GroupReport(
        groups=names,
        sizes=sizes,
        accuracy=accuracy,
        low=low,
        high=high,
        worst=names[accuracy.argmin()].item(),
        gap=float(np.ptp(accuracy)),
        gap_low=float(gap_low),
        gap_high=float(gap_high),
        demographic_parity=_rate_gap(guessed, everyone),
        true_positive=true_positive,
        false_positive=false_positive,
        equalised_odds=_greater(true_positive, false_positive),
        warnings=_warnings(names, sizes, labelled, small),
    )


def _numbered(groups: ArrayLike, rows: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The names of the groups, sorted, and each row's place among them."""
    column = np.asarray(groups)
    if column.shape != (rows,) or column.dtype.kind not in "biuUSO":
        raise ValueError(
            f"groups must be strings or integers, one per row, ({rows},), got {column.dtype} {column.shape}; "
            "cut a continuous column into bins"
        )
    if column.dtype.kind == "O" and not all(isinstance(value, str) for value in column):
        raise ValueError("groups of Python objects must all be strings, got others among them; name missing groups")
    names, index = np.unique(column.astype(np.str_) if column.dtype.kind == "O" else column, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two groups, got only {names[0].item()!r}")
    return names, index


def _rate_gap(hits: NDArray[np.int64], totals: NDArray[np.int64]) -> RateGaps:
    """The gaps of the rates hits / totals (G, K) of each class."""
    defined = totals > 0
    rates = hits / np.where(defined, totals, 1)
    gaps = np.where(defined, rates, -np.inf).max(0) - np.where(defined, rates, np.inf).min(0)
    low, high = gap_interval(hits, totals)
    return RateGaps(values=np.where(np.isnan(low), np.nan, gaps), low=low, high=high)


def _greater(first: RateGaps, second: RateGaps) -> RateGaps:
    parts = {name: np.maximum(getattr(first, name), getattr(second, name)) for name in ("values", "low", "high")}
    return RateGaps(**parts)


def _warnings(
    names: NDArray[Any], sizes: NDArray[np.int64], labelled: NDArray[np.int64], small: int
) -> tuple[str, ...]:
    few = [
        f"group {name!r} has {size} rows, fewer than {small}: its accuracy is uncertain"
        for name, size in zip(names.tolist(), sizes.tolist(), strict=True)
        if size < small
    ]
    occurring = labelled.any(0)
    missing = [
        f"group {name!r} has no rows of {absent} of {occurring.sum()} classes: their true-positive rates leave it out"
        for name, absent in zip(names.tolist(), ((labelled == 0) & occurring).sum(1).tolist(), strict=True)
        if absent
    ]
    return (*few, *missing)
