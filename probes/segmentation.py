"""Scores of predicted masks: confusion matrices that add up, intersection over union, Dice.

Shapes: K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices
from featurebank.probes.metrics import ClassScores, class_scores

__all__ = ["confusion_matrix", "dice", "mean_iou"]


def confusion_matrix(
    labels: ArrayLike, predictions: ArrayLike, *, classes: int, ignore_index: int | None = None
) -> NDArray[np.int64]:
    """How often each class (row) is predicted as each class (column), (K, K).

    Matrices of parts add up to the matrix of the whole: ``total += confusion_matrix(…)`` streams any amount.

    >>> confusion_matrix([[0, 1], [1, 255]], [[0, 1], [0, 0]], classes=2, ignore_index=255)
    array([[1, 0],
           [1, 1]])

    Args:
        labels: integers of any shape.
        predictions: integers of the same shape.
        classes: K.
        ignore_index: a label whose places are left out, whatever is predicted there.

    Raises:
        ValueError: the shapes differ, or a class that is not left out lies outside 0..K-1.
    """
    truth, predicted = np.asarray(labels), np.asarray(predictions)
    if truth.shape != predicted.shape or truth.dtype.kind not in "biu" or predicted.dtype.kind not in "biu":
        raise ValueError(
            "labels and predictions must be integers of the same shape, "
            f"got {truth.dtype} {truth.shape} and {predicted.dtype} {predicted.shape}"
        )
    truth, predicted = truth.reshape(-1), predicted.reshape(-1)
    matrix = np.zeros(classes * classes, np.int64)
    for block in row_slices(len(truth), 1):
        kept = slice(None) if ignore_index is None else truth[block] != ignore_index
        rows, columns = truth[block][kept].astype(np.int64), predicted[block][kept].astype(np.int64)
        for name, values in (("labels", rows), ("predictions", columns)):
            if values.size and (values.min() < 0 or values.max() >= classes):
                raise ValueError(
                    f"{name} must lie in 0..{classes - 1}, got {values.min()}..{values.max()}; "
                    "give more classes, or the ignore_index of places without a class"
                )
        matrix += np.bincount(rows * classes + columns, minlength=classes * classes)
    return matrix.reshape(classes, classes)


def mean_iou(matrix: ArrayLike, *, ignore_index: int | None = None) -> ClassScores:
    """Intersection over union of each class from a (K, K) confusion matrix: TP / (TP + FP + FN).

    NaN, and not in the mean, for ``ignore_index`` and for a class that is neither a label nor predicted.

    Raises:
        ValueError: the matrix is not (K, K) counts, or no class is left.
    """
    hits, wrong = _hits_and_errors(matrix, ignore_index)
    return class_scores(hits, hits + wrong)


def dice(matrix: ArrayLike, *, ignore_index: int | None = None) -> ClassScores:
    """The Dice score (F1) of each class from a (K, K) confusion matrix: 2 TP / (2 TP + FP + FN).

    NaN and errors as for `mean_iou`.
    """
    hits, wrong = _hits_and_errors(matrix, ignore_index)
    return class_scores(2 * hits, 2 * hits + wrong)


def _hits_and_errors(matrix: ArrayLike, ignore_index: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True positives, and false positives plus false negatives, of each class; zeros for the one left out."""
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(f"matrix must be (K, K) counts from confusion_matrix, got {counts.dtype} {counts.shape}")
    hits = counts.diagonal().astype(np.int64)
    wrong = (counts.sum(0) + counts.sum(1)).astype(np.int64) - 2 * hits
    if ignore_index is not None and 0 <= ignore_index < len(hits):
        hits[ignore_index] = wrong[ignore_index] = 0
    return hits, wrong
