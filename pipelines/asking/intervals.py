"""Numbers with their 95 % intervals, from what a probe predicted for each test row.

Shapes: M test rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.pipelines.asking.answer import Score
from featurebank.pipelines.asking.inputs import SplitRows
from featurebank.probes._rows import row_slices
from featurebank.probes.intervals import (
    bootstrap_interval,
    cluster_interval,
    mean_interval,
    weighted_interval,
    wilson_interval,
)
from featurebank.probes.metrics import bin_numbers
from featurebank.probes.segmentation import dice, mean_iou
from featurebank.probes.weighted import Statistic, masks

__all__ = [
    "RowProbabilities",
    "calibration_score",
    "class_scores",
    "likelihoods",
    "mask_scores",
    "mean_score",
    "predicted",
    "probability_scores",
    "resampled",
    "row_probabilities",
    "share_score",
]

ROWS = "test rows"
BINS = 15
DRAWS = 2000


def mean_score(
    metric: str,
    values: ArrayLike,
    *,
    seed: int,
    unit: str = ROWS,
    clusters: tuple[str, ArrayLike] | None = None,
    **more: Any,
) -> Score:
    """The mean of per-row values (M,) and its interval: Wilson's of values that are 0 or 1, else the bootstrap's.

    Args:
        metric: its name.
        values: (M,).
        seed: of the bootstrap.
        unit: what the rows are called.
        clusters: the name of what is drawn instead of rows, and that of each row, (M,).
        more: of `Score`.
    """
    rows = np.asarray(values)
    if clusters is not None:
        (low, high), interval = cluster_interval(rows, clusters[1], random_state=seed), f"{clusters[0]}, bootstrap"
    elif ((rows == 0) | (rows == 1)).all() and len(rows):
        (low, high), interval = map(float, wilson_interval(rows.sum(), len(rows))), f"{unit}, Wilson"
    else:
        (low, high), interval = bootstrap_interval(rows, random_state=seed), f"{unit}, bootstrap"
    value = float(rows.mean(dtype=np.float64))
    return Score(metric=metric, value=value, low=low, high=high, interval=interval, n=len(rows), **more)


def share_score(metric: str, share: float, rows: int) -> Score:
    """A share of M rows and Wilson's interval."""
    low, high = map(float, wilson_interval(share * rows, rows))
    return Score(metric=metric, value=share, low=low, high=high, interval=f"{ROWS}, Wilson", n=rows)


def resampled(metric: str, value: float, statistic: Statistic, rows: int, *, seed: int, draws: int = DRAWS) -> Score:
    """A metric of all M rows, and its interval over resampled ones; see `featurebank.probes.weighted`."""
    low, high = weighted_interval(statistic, rows, draws=draws, random_state=seed)
    return Score(metric=metric, value=value, low=low, high=high, interval=f"{ROWS}, bootstrap", n=rows)


def mask_scores(confusions: NDArray[np.int64], *, seed: int) -> list[Score]:
    """Mean IoU, mean Dice and pixel accuracy of the pixels of all images, (M, K, K), and intervals over images."""
    whole = confusions.sum(0)
    values = {
        "miou": mean_iou(whole).mean,
        "dice": dice(whole).mean,
        "pixel_accuracy": float(np.trace(whole) / max(whole.sum(), 1)),
    }
    return [
        resampled(metric, value, masks(confusions, metric), rows=len(confusions), seed=seed)
        for metric, value in values.items()
    ]


def class_scores(labels: NDArray[np.int64], predictions: NDArray[np.int64], *, seed: int) -> list[Score]:
    """Accuracy and balanced accuracy of predicted classes (M,)."""
    correct = predictions == labels
    codes = np.unique(labels, return_inverse=True)[1]
    counts, right = np.bincount(codes), np.bincount(codes, correct)
    low, high = mean_interval(right, counts)
    balanced = float((right / counts).mean())
    return [
        mean_score("accuracy", correct, seed=seed),
        Score(
            metric="balanced_accuracy",
            value=balanced,
            low=low,
            high=high,
            interval=f"{ROWS}, Wilson by class",
            n=len(labels),
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class RowProbabilities:
    """What logits say about each test row; float64 unless said otherwise.

    Attributes:
        predictions: (M,) int64 classes.
        correct: (M,) bool.
        log_confidence: (M,) log-probability of the predicted class.
        log_likelihood: (M,) log-probability of the label, -inf where it is none of the classes.
        brier: (M,) squared errors of the probabilities, summed over the classes.
    """

    predictions: NDArray[np.int64]
    correct: NDArray[np.bool_]
    log_confidence: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    brier: NDArray[np.float64]


def row_probabilities(
    labels: NDArray[np.int64], classes: NDArray[np.int64], logits: NDArray[np.floating], *, temperature: float = 1.0
) -> RowProbabilities:
    """Softmax of logits (M, K) over a temperature, in blocks of rows; labels (M,), the columns' classes (K,) sorted.

    A label that is none of the classes has probability 0.
    """
    from scipy.special import log_softmax  # type: ignore[import-untyped]

    known = np.isin(labels, classes)
    own = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    best = np.empty(len(labels), np.int64)
    log_confidence, log_likelihood, brier = np.empty((3, len(labels)))
    for block in row_slices(*logits.shape):
        z = logits[block] / np.float64(temperature)
        best[block] = z.argmax(1)
        z = log_softmax(z, axis=1)
        log_confidence[block] = z.max(1)
        log_likelihood[block] = np.where(known[block], np.take_along_axis(z, own[block, None], 1)[:, 0], -np.inf)
        # not `featurebank.probes.metrics.brier`, whose probabilities must give every label one: here it may have none
        brier[block] = np.exp(2 * z).sum(1) - 2 * np.exp(log_likelihood[block]) + 1
    predictions = classes[best]
    return RowProbabilities(
        predictions=predictions,
        correct=predictions == labels,
        log_confidence=log_confidence,
        log_likelihood=log_likelihood,
        brier=brier,
    )


def probability_scores(rows: RowProbabilities, *, seed: int) -> list[Score]:
    """NLL, Brier score and ECE. A row whose label is none of the classes has no likelihood: the NLL leaves it out."""
    known = rows.log_likelihood[np.isfinite(rows.log_likelihood)]
    found = [mean_score("nll", -known, seed=seed)] if len(known) else []
    return [*found, mean_score("brier", rows.brier, seed=seed), calibration_score("ece", rows, seed=seed)]


def calibration_score(metric: str, rows: RowProbabilities, *, seed: int) -> Score:
    """The expected calibration error in 15 bins (a, b] of equal width (Guo et al. 2017, arXiv:1706.04599).

    Resampled bins are noisier than the bins themselves and show a greater error, so that a plain percentile interval
    may lie above the value. It is moved down by the mean excess, and cut at 0.
    """
    confidence = np.exp(rows.log_confidence)
    gap = confidence - rows.correct
    bins = bin_numbers(confidence, BINS)
    generator = np.random.default_rng(seed)

    def error(bins: NDArray[np.int64], gap: NDArray[np.float64]) -> float:
        return float(np.abs(np.bincount(bins, gap, minlength=BINS)).sum() / len(bins))

    value, drawn = error(bins, gap), np.empty(DRAWS)
    for draw in range(DRAWS):
        taken = generator.integers(0, len(bins), len(bins))
        drawn[draw] = error(bins[taken], gap[taken])
    low, high = np.quantile(drawn, (0.025, 0.975)) - (drawn.mean() - value)
    return Score(
        metric=metric,
        value=value,
        low=max(float(low), 0.0),
        high=float(high),
        interval=f"{ROWS}, bootstrap",
        n=len(bins),
    )


def predicted(test: SplitRows, predictions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What is kept of predicted classes (M,): ids, row numbers, labels and predictions."""
    return {
        "ids": test.ids,
        "rows": test.rows,
        "labels": test.labels,
        "predictions": predictions,
    }


def likelihoods(rows: RowProbabilities) -> dict[str, NDArray[np.float32]]:
    """What is kept of probabilities: the logarithms of those of the predicted class and of the label."""
    return {
        "log_confidence": rows.log_confidence.astype(np.float32),
        "log_likelihood": rows.log_likelihood.astype(np.float32),
    }
