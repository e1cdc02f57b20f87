"""Metrics as functions of row weights: with ones the metric itself, with counts of drawn rows its bootstrap.

A statistic takes weights (B, M) and gives (B,) float64; NaN where no row of positive weight defines it. What can be is
one matrix product for all draws. Two statistics at the same weights are compared on the same drawn rows.

Shapes: M rows, B draws, L labels, T targets, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Draws = NDArray[np.float64]
Statistic = Callable[[Draws], Draws]


def value_of(statistic: Statistic, rows: int) -> float:
    """The statistic of all rows, each once."""
    return float(statistic(np.ones((1, rows)))[0])


def check_draws(draws: int, level: float) -> None:
    """Raises ValueError where there are no draws, or the level of an interval is not between 0 and 1."""
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level must be between 0 and 1 and draws at least 1, got {level} and {draws}")


def percentiles(drawn: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The ends between which the middle of what was drawn (B,) lies."""
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def mean(values: ArrayLike) -> Statistic:
    """The mean of values (M,).

    >>> value_of(mean([0.0, 1.0, 1.0, 1.0]), 4)
    0.75
    """
    of = np.asarray(values, np.float64)
    return lambda weights: np.asarray(weights @ of / weights.sum(1))


def regression(targets: ArrayLike, predictions: ArrayLike, metric: str) -> Statistic:
    """``r2``, ``mae`` or ``rmse`` of predictions (M, T), as `featurebank.probes.ridge.regression_scores`.

    >>> value_of(regression([[1.0], [2.0], [3.0]], [[1.0], [2.0], [4.0]], "r2"), 3)
    0.5
    """
    arrays = (np.asarray(part, np.float64) for part in (targets, predictions))
    truth, predicted = (array.reshape(len(array), -1) for array in arrays)
    error = truth - predicted
    if metric == "mae":
        return mean(np.abs(error).mean(1))
    squared, centred = np.square(error), truth - truth.mean(0)
    spread = np.square(centred)

    def rmse(weights: Draws) -> Draws:
        return np.asarray(np.sqrt(weights @ squared / weights.sum(1, keepdims=True)).mean(1))

    def r2(weights: Draws) -> Draws:
        residual, n = weights @ squared, weights.sum(1, keepdims=True)
        total = weights @ spread - np.square(weights @ centred) / n
        varied = total > 1e-12 * (weights @ spread)
        return np.asarray(np.where(varied, 1 - residual / np.where(varied, total, 1.0), residual == 0).mean(1))

    return {"r2": r2, "rmse": rmse}[metric]


def masks(confusions: NDArray[np.integer], metric: str) -> Statistic:
    """``miou``, ``dice`` or ``pixel_accuracy`` of the sum of the confusion matrices (M, K, K) of images.

    >>> value_of(masks(np.array([[[3, 1], [0, 4]]]), "pixel_accuracy"), 1)
    0.875
    """
    hits = np.einsum("mkk->mk", confusions).astype(np.float64)
    labelled, named = (confusions.sum(axis).astype(np.float64) for axis in (2, 1))
    if metric == "pixel_accuracy":
        right, pixels = hits.sum(1), labelled.sum(1)
        return lambda weights: weights @ right / np.maximum(weights @ pixels, 1)

    def overlap(weights: Draws) -> Draws:
        true, either = weights @ hits, weights @ (labelled + named)
        above, below = (2 * true, either) if metric == "dice" else (true, either - true)
        return _mean_of_defined(above, below)

    return overlap


def label_auroc(labels: ArrayLike, scores: ArrayLike) -> Statistic:
    """The mean over labels of the AUROC, as `featurebank.probes.metrics.multilabel_auroc`: (M, L) of 0, 1 or -1.

    >>> value_of(label_auroc([[0], [0], [1], [1]], [[0.1], [0.4], [0.4], [0.8]]), 4)
    0.875
    """

    def area(positives: Draws, negatives: Draws) -> Draws:
        below = negatives.cumsum(1) - negatives / 2
        return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))

    return _over_labels(labels, scores, area)


def label_precision(labels: ArrayLike, scores: ArrayLike) -> Statistic:
    """The mean over labels of the average precision, as `featurebank.probes.metrics.multilabel_map`: (M, L)."""

    def precision(positives: Draws, negatives: Draws) -> Draws:
        above, others = positives[:, ::-1], negatives[:, ::-1]
        hits, total = above.cumsum(1), above.sum(1)
        seen = _ratio(hits, hits + others.cumsum(1))
        precisions = _ratio((above * np.nan_to_num(seen)).sum(1), total)
        return np.where(others.sum(1) > 0, precisions, np.nan)

    return _over_labels(labels, scores, precision)


def _over_labels(labels: ArrayLike, scores: ArrayLike, metric: Callable[[Draws, Draws], Draws]) -> Statistic:
    """The mean of a metric of the weights of both classes at each distinct score, ascending, over the labels."""
    truth, values = np.asarray(labels), np.asarray(scores)
    parts = []
    for own, scored in zip(truth.T, values.T, strict=True):
        rows = np.flatnonzero(own >= 0)
        if len(np.unique(own[rows])) < 2:
            continue
        rows = rows[np.argsort(scored[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(scored[rows], prepend=np.nan) != 0)
        parts.append((rows, own[rows] == 1, starts))

    def statistic(weights: Draws) -> Draws:
        areas = np.empty((len(parts), len(weights)))
        for index, (rows, positive, starts) in enumerate(parts):
            ordered = weights[:, rows]
            sides = (np.add.reduceat(ordered * side, starts, axis=1) for side in (positive, ~positive))
            areas[index] = metric(*sides)
        return _mean(areas)

    return statistic


def _mean_of_defined(above: Draws, below: Draws) -> Draws:
    return _mean(_ratio(above, below).T)


def _ratio(above: Draws, below: Draws) -> Draws:
    """NaN where the lower number is 0."""
    ratio: Draws = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return ratio


def _mean(values: Draws) -> Draws:
    """Over the first axis, of what is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN
        return np.asarray(np.nanmean(values, axis=0))
