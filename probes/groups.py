"""Is a classifier as good for every group of rows: camera, hospital, skin type, any column of a feature set?

Shapes: M rows, G groups, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.bootstrap import bootstrap_interval
from featurebank.probes.metrics import as_labels, predicted_classes

__all__ = ["GroupReport", "RateGaps", "group_report"]

SMALL = 30
ENDS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class RateGaps:
    """How far a rate of each class lies apart between groups: the greatest minus the least.

    Attributes:
        values: (K,) float64, NaN where fewer than two groups have the rate.
        low: (K,) float64, lower end of the 95 % interval, rows drawn within each group. A gap is never below 0, so
            drawn gaps lie above the true one where groups are small or alike.
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
        low: (G,) float64, lower end of the accuracy's 95 % bootstrap interval.
        high: (G,) float64, upper end.
        worst: the group of least accuracy, the first of several.
        gap: greatest minus least accuracy of a group.
        gap_low: lower end of its 95 % interval, drawn as in `RateGaps`.
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
    draws: int = 2000,
    seed: int = 0,
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
        draws: resamples of the intervals.
        seed: of the draws.

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
    accuracy = np.bincount(index, correct) / sizes
    intervals = [bootstrap_interval(correct[index == g], draws=draws, seed=seed + g) for g in range(len(names))]
    generator = np.random.default_rng(seed)
    drawn = generator.binomial(sizes, accuracy, (draws, len(names))) / sizes
    gap_low, gap_high = np.quantile(np.ptp(drawn, axis=1), ENDS)
    labelled, guessed, hits = (
        np.bincount(index[rows] * K + values[rows], minlength=len(names) * K).reshape(-1, K)
        for rows, values in ((slice(None), truth), (slice(None), predicted), (correct, truth))
    )
    missed, mistaken = labelled - hits, guessed - hits
    outcomes = np.stack([hits, missed, mistaken, sizes[:, None] - hits - missed - mistaken], axis=2)
    parity, true_positive, false_positive, odds = _rate_gaps(outcomes, draws, generator)
    return GroupReport(
        groups=names,
        sizes=sizes,
        accuracy=accuracy,
        low=np.array([low for low, _ in intervals]),
        high=np.array([high for _, high in intervals]),
        worst=names[accuracy.argmin()].item(),
        gap=float(np.ptp(accuracy)),
        gap_low=float(gap_low),
        gap_high=float(gap_high),
        demographic_parity=parity,
        true_positive=true_positive,
        false_positive=false_positive,
        equalised_odds=odds,
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


def _rate_gaps(outcomes: NDArray[np.int64], draws: int, generator: np.random.Generator) -> list[RateGaps]:
    """Parity, true-positive, false-positive and odds gaps of outcomes (G, K, 4): hits, misses, false alarms, the rest.

    For one class against the others, rows drawn within a group are a multinomial draw of these four.
    """
    K = outcomes.shape[1]
    values = _gaps(outcomes.swapaxes(0, 1))
    low, high = np.full((2, K, 4), np.nan)
    sizes = outcomes[:, 0].sum(1)
    for k in range(K):
        drawn = _gaps(generator.multinomial(sizes, outcomes[:, k] / sizes[:, None], (draws, len(sizes))))
        for kind in np.flatnonzero(~np.isnan(values[k])):
            defined = drawn[~np.isnan(drawn[:, kind]), kind]
            if defined.size:
                low[k, kind], high[k, kind] = np.quantile(defined, ENDS)
    return [RateGaps(values=values[:, kind], low=low[:, kind], high=high[:, kind]) for kind in range(4)]


def _gaps(outcomes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The four gaps (…, 4) between groups with the outcomes (…, G, 4)."""
    hits, missed, mistaken, spared = np.moveaxis(outcomes, -1, 0)
    true_positive, false_positive = _gap(hits, hits + missed), _gap(mistaken, mistaken + spared)
    parity = _gap(hits + mistaken, outcomes.sum(-1))
    return np.stack([parity, true_positive, false_positive, np.maximum(true_positive, false_positive)], axis=-1)


def _gap(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Greatest minus least rate (…) between the groups that have rows, of counts and totals (…, G)."""
    defined = totals > 0
    rates = counts / np.where(defined, totals, 1)
    gaps = np.where(defined, rates, -np.inf).max(-1) - np.where(defined, rates, np.inf).min(-1)
    return np.where(defined.sum(-1) > 1, gaps, np.nan)


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
