"""Scores of predictions against labels: classification, calibration, ranking, multi-label.

Shapes: M rows, K classes, L labels of a multi-label task. Labels come first, as in scikit-learn. Scores (M, K) may be
float16, float32 or float64, memory-mapped or not; they are read in blocks of rows and summed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices

__all__ = [
    "ClassScores",
    "accuracy",
    "as_labels",
    "as_scores",
    "as_values",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "bin_numbers",
    "brier",
    "class_scores",
    "confidence_bins",
    "ece",
    "multilabel_auroc",
    "multilabel_map",
    "nll",
    "per_class_accuracy",
    "predicted_classes",
    "top_k_accuracy",
]

Closed = Literal["right", "left"]

_SUM_TOLERANCE = 0.01  # float16 moves the sum of a row of probabilities by 0.001, of rounded logarithms by 0.004


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One score per class or label, and their mean.

    Attributes:
        values: (K,) float64, NaN where the score is not defined.
        mean: over the classes where it is.
    """

    values: NDArray[np.float64]
    mean: float


def as_labels(
    labels: ArrayLike, *, rows: int | None = None, classes: int | None = None, name: str = "labels"
) -> NDArray[np.int64]:
    """The (M,) labels as int64.

    Raises:
        ValueError: they are not integers of shape (M,), there are none, or one lies outside 0..classes-1.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "biu"):
        raise ValueError(f"{name} must be integers of shape (M,), one per row, got {array.dtype} {array.shape}")
    if rows is not None and len(array) != rows:
        raise ValueError(f"{name} must have one value per row, {rows}, got {len(array)}")
    if not len(array):
        raise ValueError(f"{name} must have at least one row, got none")
    low, high = int(array.min()), int(array.max())
    if low < 0 or (classes is not None and high >= classes):
        allowed = "0 or above" if classes is None else f"in 0..{classes - 1}"
        raise ValueError(f"{name} must be {allowed}, got {low}..{high}; leave out rows that have no class")
    return array.astype(np.int64, copy=False)


def as_scores(
    scores: ArrayLike, *, rows: int | None = None, name: str = "scores", finite: bool = False
) -> NDArray[np.floating]:
    """The (M, K) scores as they are, checked in blocks.

    Minus infinity, the logarithm of a probability of 0, is let through unless ``finite`` is set.

    Raises:
        ValueError: they are not floating-point of shape (M, K), or hold NaN or infinity.
    """
    array = np.asarray(scores)
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise ValueError(f"{name} must be floating-point of shape (M, K), not empty, got {array.dtype} {array.shape}")
    if rows is not None and len(array) != rows:
        raise ValueError(f"{name} must have one row per label, {rows}, got {len(array)}")
    for block in row_slices(*array.shape):
        good = np.isfinite(array[block])
        if not finite:
            good |= np.isneginf(array[block])
        if not good.all():
            row, column = np.argwhere(~good)[0]
            value = array[block][row, column]
            raise ValueError(
                f"{name} must be finite, got {value} in row {block.start + row}, column {column}; leave out failed rows"
            )
    return array


def predicted_classes(predictions: ArrayLike, *, rows: int | None = None) -> NDArray[np.int64]:
    """The (M,) predicted classes: ``predictions`` itself, or the first greatest of (M, K) scores in each row."""
    if np.ndim(predictions) != 2:
        return as_labels(predictions, rows=rows, name="predictions")
    scores = as_scores(predictions, rows=rows, name="predictions")
    return np.concatenate([scores[block].argmax(1) for block in row_slices(*scores.shape)]).astype(np.int64)


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """The share of rows whose prediction, (M,) classes or (M, K) scores, is their label.

    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    """
    truth, predicted, _ = _pair(labels, predictions)
    return float((truth == predicted).mean())


def top_k_accuracy(labels: ArrayLike, scores: ArrayLike, *, k: int = 5) -> float:
    """The share of rows whose label is among the k greatest of their (M, K) scores.

    Of equal scores the lower class counts as the greater one, so k=1 is the accuracy of argmax.

    >>> top_k_accuracy([2, 0], np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]), k=2)
    0.5

    Raises:
        ValueError: k is not in 1..K, or as for `as_labels` and `as_scores`.
    """
    array = as_scores(scores)
    truth = as_labels(labels, rows=len(array), classes=array.shape[1])
    if not 1 <= k <= array.shape[1]:
        raise ValueError(f"k must be in 1..{array.shape[1]}, the number of classes, got {k}")
    hits = 0
    for block in row_slices(*array.shape):
        part, own_class = array[block], truth[block, None]
        own = np.take_along_axis(part, own_class, 1)
        ahead = (part > own) | ((part == own) & (np.arange(part.shape[1]) < own_class))
        hits += int((ahead.sum(1) < k).sum())
    return hits / len(truth)


def per_class_accuracy(labels: ArrayLike, predictions: ArrayLike, *, classes: int | None = None) -> ClassScores:
    """The accuracy on each class's own rows (its recall); NaN for a class without rows.

    Args:
        labels: (M,).
        predictions: (M,) classes or (M, K) scores.
        classes: K; the width of the scores, or one more than the greatest class seen, if None.
    """
    truth, predicted, width = _pair(labels, predictions, classes)
    counts = np.bincount(truth, minlength=width)
    return class_scores(np.bincount(truth[truth == predicted], minlength=width), counts)


def balanced_accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """The mean of the accuracies of the classes that have rows, as scikit-learn's ``balanced_accuracy_score``.

    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    return per_class_accuracy(labels, predictions).mean


def nll(labels: ArrayLike, log_probabilities: ArrayLike) -> float:
    """The mean negative log-likelihood, in nats, from (M, K) log-probabilities; infinite if a label has probability 0.

    Raises:
        ValueError: a row's probabilities do not sum to 1, or as for `as_labels` and `as_scores`.
    """
    array = as_scores(log_probabilities, name="log_probabilities")
    truth = as_labels(labels, rows=len(array), classes=array.shape[1])
    for block in row_slices(*array.shape):
        with np.errstate(over="ignore"):  # a row of logits may overflow; its sum is refused
            sums = np.exp(array[block], dtype=np.float64).sum(1)
        _check_sums(sums, block, "exponentials of log_probabilities", "pass log_softmax of the logits")
    return 0.0 - float(np.take_along_axis(array, truth[:, None], 1).mean(dtype=np.float64))


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The multi-class Brier score: squared errors of (M, K) probabilities, summed over classes, averaged over rows.

    It runs from 0 to 2 (Brier 1950); for two classes it is twice scikit-learn's ``brier_score_loss``.

    >>> round(brier([0], np.array([[0.8, 0.2]])), 3)  # (0.8 - 1)^2 + 0.2^2
    0.08

    Raises:
        ValueError: a row's probabilities are below 0 or do not sum to 1, or as for `as_labels` and `as_scores`.
    """
    array, truth = _probabilities(labels, probabilities)
    total = 0.0
    for block in row_slices(*array.shape):
        errors = array[block].astype(np.float64)
        errors[np.arange(len(errors)), truth[block]] -= 1.0
        total += float(np.einsum("ij,ij->", errors, errors))
    return total / len(truth)


def confidence_bins(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15, closed: Closed = "right"
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows sorted into equal-width bins by the probability of the class they predict.

    The edges are rounded to the probabilities' precision, so that a float16 confidence of 0.6 lies on the edge 0.6.

    Args:
        labels: (M,).
        probabilities: (M, K).
        bins: B.
        closed: "right" for (a, b], as Guo et al. 2017; "left" for [a, b) and a last bin for exactly 1, as torchmetrics.

    Returns:
        Rows, mean confidence and accuracy per bin, each (B,), or (B + 1,) for "left"; NaN means for an empty bin.

    Raises:
        ValueError: ``bins`` is below 1, ``closed`` is something else, or as for `brier`.
    """
    if bins < 1 or closed not in ("right", "left"):
        raise ValueError(f"bins must be at least 1 and closed 'right' or 'left', got {bins} and {closed!r}")
    array, truth = _probabilities(labels, probabilities)
    confidence = np.concatenate([array[block].max(1) for block in row_slices(*array.shape)]).clip(max=1)
    correct = predicted_classes(array) == truth
    index = bin_numbers(confidence, bins, closed)
    width = bins + (closed == "left")
    count = np.bincount(index, minlength=width)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence.astype(np.float64), width) / count
        share = np.bincount(index, correct, width) / count
    return count, mean, share


def bin_numbers(confidence: NDArray[np.floating], bins: int, closed: Closed = "right") -> NDArray[np.intp]:
    """The bin of each confidence (M,) above 0, as for `confidence_bins`."""
    edges = (np.arange(bins + 1) / bins).astype(confidence.dtype)
    return edges.searchsorted(confidence, "left" if closed == "right" else "right") - 1


def ece(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    bins: int = 15,
    norm: Literal["l1", "l2", "max"] = "l1",
    closed: Closed = "right",
) -> float:
    """The expected calibration error of the predicted class (Guo et al. 2017, arXiv:1706.04599).

    "l1" is the mean over rows of the gap between accuracy and confidence of their bin, "l2" the root of its mean
    square, "max" the greatest gap (maximum calibration error). ``bins`` and ``closed`` as for `confidence_bins`.

    >>> round(ece([0, 1], np.array([[0.9, 0.1], [0.7, 0.3]])), 3)  # gaps of 0.1 and 0.7
    0.4

    Raises:
        ValueError: ``norm`` is something else, or as for `confidence_bins`.
    """
    if norm not in ("l1", "l2", "max"):
        raise ValueError(f"norm must be 'l1', 'l2' or 'max', got {norm!r}")
    count, confidence, share = confidence_bins(labels, probabilities, bins=bins, closed=closed)
    filled = count > 0
    gaps = np.abs(confidence[filled] - share[filled])
    if norm == "max":
        return float(gaps.max())
    power = 1 if norm == "l1" else 2
    return float(np.average(gaps**power, weights=count[filled]) ** (1 / power))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """The area under the ROC curve: how often a row of class 1 scores above one of class 0, ties counting half.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875

    Args:
        labels: (M,) of 0 and 1.
        scores: (M,), greater for class 1.

    Raises:
        ValueError: a class has no rows, a label is neither 0 nor 1, or a score is not finite.
    """
    positives, negatives = _counts_by_score(labels, scores)
    below = negatives.cumsum() - negatives
    return int((positives * (2 * below + negatives)).sum()) / (2 * int(positives.sum()) * int(negatives.sum()))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """The sum over distinct thresholds of the gain in recall times the precision there, as scikit-learn defines it.

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333

    Args:
        labels: (M,) of 0 and 1.
        scores: (M,), greater for class 1.

    Raises:
        ValueError: as for `auroc`.
    """
    positives, negatives = (counts[::-1] for counts in _counts_by_score(labels, scores))
    precision = positives.cumsum() / (positives + negatives).cumsum()
    return float((positives * precision).sum() / positives.sum())


def multilabel_auroc(labels: ArrayLike, scores: ArrayLike, *, known: ArrayLike | None = None) -> ClassScores:
    """The AUROC of each label over its known rows, and the mean over labels that have both classes there.

    Args:
        labels: (M, L) of 0 and 1, or -1 where it is not known.
        scores: (M, L).
        known: (M, L) bool, False where a label is not known; in addition to the -1.

    Raises:
        ValueError: no label has both classes, the shapes differ, or a value is not allowed.
    """
    return _per_label(auroc, labels, scores, known)


def multilabel_map(labels: ArrayLike, scores: ArrayLike, *, known: ArrayLike | None = None) -> ClassScores:
    """The average precision of each label over its known rows, and the mean over labels that have both classes there.

    Arguments and errors as for `multilabel_auroc`.
    """
    return _per_label(average_precision, labels, scores, known)


def _pair(
    labels: ArrayLike, predictions: ArrayLike, classes: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The labels, the predicted classes, and K."""
    if classes is None and np.ndim(predictions) == 2:
        classes = np.shape(predictions)[1]
    truth = as_labels(labels, classes=classes)
    predicted = predicted_classes(predictions, rows=len(truth))
    width = int(max(truth.max(), predicted.max())) + 1
    if classes is not None and width > classes:
        raise ValueError(f"predictions must lie in 0..{classes - 1}, got up to {width - 1}; give more classes")
    return truth, predicted, classes or width


def _probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    array = as_scores(probabilities, name="probabilities", finite=True)
    truth = as_labels(labels, rows=len(array), classes=array.shape[1])
    for block in row_slices(*array.shape):
        if (lowest := array[block].min()) < 0:
            raise ValueError(f"probabilities must not be below 0, got {lowest}; pass softmax of the logits")
        sums = array[block].sum(1, dtype=np.float64)
        _check_sums(sums, block, "probabilities", "pass softmax of the logits")
    return array, truth


def _check_sums(sums: NDArray[np.float64], block: slice, name: str, remedy: str) -> None:
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= _SUM_TOLERANCE))
    if wrong.size:
        raise ValueError(f"{name} must sum to 1, got {sums[wrong[0]]:.6g} in row {block.start + wrong[0]}; {remedy}")


def _counts_by_score(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of class 1 and of class 0 at each distinct score, ascending."""
    truth = as_labels(labels, classes=2)
    values = as_values(scores, "scores")
    if len(values) != len(truth):
        raise ValueError(f"scores must have one value per label, {len(truth)}, got {len(values)}")
    if truth.min() == truth.max():
        raise ValueError(f"labels must have rows of both classes, 0 and 1, got only {truth[0]}")
    distinct, index = np.unique(values, return_inverse=True)
    positives = np.bincount(index[truth == 1], minlength=len(distinct))
    return positives, np.bincount(index, minlength=len(distinct)) - positives


def as_values(values: ArrayLike, name: str = "values") -> NDArray[Any]:
    """Finite numbers (M,), at least one, as they come; else ValueError."""
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers of shape (M,), at least one, got {array.dtype} {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name} must be finite, got {array[bad[0]]} in row {bad[0]}; leave out failed rows")
    return array


def _per_label(
    metric: Callable[[ArrayLike, ArrayLike], float], labels: ArrayLike, scores: ArrayLike, known: ArrayLike | None
) -> ClassScores:
    array, truth = as_scores(scores, finite=True), np.asarray(labels)
    usable = np.ones(truth.shape, bool) if known is None else np.asarray(known)
    if not truth.shape == usable.shape == array.shape or truth.dtype.kind not in "biu" or usable.dtype != np.bool_:
        raise ValueError(
            f"labels must be integers and known bool, both of the scores' shape {array.shape}, got "
            f"{truth.dtype} {truth.shape} and {usable.dtype} {usable.shape}"
        )
    if not np.isin(truth, (-1, 0, 1)).all():
        raise ValueError(f"labels must be 0, 1, or -1 where not known, got {truth.min()}..{truth.max()}")
    values = np.full(array.shape[1], np.nan)
    for label in range(array.shape[1]):
        rows = usable[:, label] & (truth[:, label] != -1)
        own = truth[rows, label]
        if own.size and own.min() != own.max():
            values[label] = metric(own, array[rows, label])
    if np.isnan(values).all():
        raise ValueError(f"at least one label must have known rows of both classes, got none of {len(values)}")
    return ClassScores(values=values, mean=float(np.nanmean(values)))


def class_scores(hits: NDArray[np.int64], totals: NDArray[np.int64]) -> ClassScores:
    """The share hits / totals of each class (K,), NaN where a total is 0; ValueError where all are."""
    if not totals.any():
        raise ValueError(f"at least one of {len(totals)} classes must occur, got none")
    with np.errstate(invalid="ignore"):
        values = hits / totals
    return ClassScores(values=values, mean=float(np.nanmean(values)))
