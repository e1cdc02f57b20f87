"""Scores of features for a task without a split or a fit that is chosen: cheap, and no reason to choose by.

They order backbones worse than leaving rows out does (`featurebank.probes.leave_one_out`), and none of them says how
far apart two backbones are. H-score, NLEEP and GBC are not here: with fewer rows than features the first is C - 1 for
noise too, and the others order backbones worse still.

Shapes: N rows, D features, C classes, R components.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.leave_one_out import Matrix, principal_rows
from featurebank.retrieval._features import as_features

__all__ = ["class_mean_predictions", "log_me", "neighbour_predictions"]

STEPS, CLOSE, RANGE = 200, 1e-8, 1e-12
BLOCK = 1024


def log_me(features: ArrayLike, labels: ArrayLike) -> float:
    """Logarithm of the maximum evidence, a row and class, of linear regression on one-hot targets (You et al. 2021).

    The evidence has a factor for each of the D features. The code that was released leaves those beyond N out, and so
    ranks by D where N < D, noise first; with all of them, columns of zeros change nothing. Nothing is added to
    denominators either, so the scale of the features does not matter.

    >>> round(log_me([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]], [0, 0, 1, 1]), 3)
    -0.144

    Args:
        features: (N, D).
        labels: (N,) whole numbers.

    Raises:
        ValueError: other shapes, a single class, NaN or infinity.
    """
    rows, targets = _task(features, labels)
    basis, values = principal_rows(rows)
    return float(np.mean([_evidence(values, basis.T @ target, target) for target in targets.T])) / len(rows)


def neighbour_predictions(features: ArrayLike, labels: ArrayLike, *, k: int = 5) -> NDArray[np.int64]:
    """(N,) class of most of each row's k nearest others by cosine; of equally many the one that is closer.

    Raises:
        ValueError: as `log_me`, or no k that is between 1 and N - 1.
    """
    rows, targets = _task(features, labels)
    if not 1 <= k < len(rows):
        raise ValueError(f"k must be 1 to {len(rows) - 1}, the other rows; found {k}")
    rows = _unit(rows).astype(np.float32)
    found = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        near = block @ rows.T
        near[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        nearest = np.argpartition(-near, k - 1, axis=1)[:, :k]
        votes = 1 + np.take_along_axis(near, nearest, axis=1) / (4 * k)  # all together less than a vote
        found.append((targets[nearest] * votes[..., None]).sum(1).argmax(1))
    predictions: NDArray[np.int64] = np.unique(np.asarray(labels)).astype(np.int64)[np.concatenate(found)]
    return predictions


def class_mean_predictions(features: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """(N,) class whose mean, of rows of length 1 without the row itself, has the largest cosine with the row.

    Raises:
        ValueError: as `log_me`.
    """
    rows, targets = _task(features, labels)
    rows = _unit(rows)
    sums = targets.T @ rows
    cosines = rows @ _unit(sums).T
    own, at = targets.argmax(1), np.arange(len(rows))
    alone = targets.sum(0)[own] == 1
    cosines[at, own] = np.where(alone, -np.inf, (rows * _unit(sums[own] - rows)).sum(1))
    predictions: NDArray[np.int64] = np.unique(np.asarray(labels)).astype(np.int64)[cosines.argmax(1)]
    return predictions


def _evidence(values: Matrix, inner: Matrix, target: Matrix) -> float:
    """The logarithm of the evidence at its maximum over both precisions, of which MacKay's fixed point finds the ratio.

    Where every ratio is better than a larger one, or a smaller, the evidence has a limit: that at the end of the range.
    """
    n, squares = len(target), np.square(inner)
    beyond = max(float(np.square(target).sum() - squares.sum()), 0.0)
    low, high = float(values.max(initial=1.0)) * RANGE, float(values.max(initial=1.0)) / RANGE
    ratio = 1.0
    for _ in range(STEPS):
        used = float((values / (values + ratio)).sum())
        weights = float((values * squares / np.square(values + ratio)).sum())
        missed = float((squares * np.square(ratio / (values + ratio))).sum()) + beyond
        before, ratio = ratio, min(max(used * missed / max((n - used) * weights, 1e-300), low), high)
        if abs(ratio - before) <= CLOSE * before:
            break
    missed = float((squares * ratio / (values + ratio)).sum()) + beyond  # and what the weights cost
    precision = n / max(missed, 1e-300)
    return 0.5 * (n * math.log(precision / (2 * math.pi)) - float(np.log1p(values / ratio).sum()) - n)


def _task(features: ArrayLike, labels: ArrayLike) -> tuple[Matrix, Matrix]:
    """Rows (N, D) and one-hot targets (N, C), both float64."""
    rows = np.asarray(as_features(features), np.float64)
    given = np.asarray(labels)
    if given.shape != (len(rows),) or given.dtype.kind not in "iu" or len(classes := np.unique(given)) < 2:
        raise ValueError(f"labels must be {len(rows)} whole numbers of two classes or more; found shape {given.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("features must be finite; found NaN or infinity")
    return rows, (given[:, None] == classes).astype(np.float64)


def _unit(rows: Matrix) -> Matrix:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
