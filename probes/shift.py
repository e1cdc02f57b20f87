"""Scores under distribution shift: a head restricted to some classes, corruption error, effective robustness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices
from featurebank.probes.metrics import as_labels, as_scores

__all__ = [
    "ALEXNET_CLEAN_ERROR",
    "ALEXNET_ERRORS",
    "ClassMask",
    "EffectiveRobustness",
    "class_mask",
    "effective_robustness",
    "mean_corruption_error",
    "relative_mean_corruption_error",
]

ALEXNET_ERRORS: Mapping[str, float] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error on ImageNet-C, mean over severities 1 to 5, as published with Hendrycks & Dietterich 2019."""

ALEXNET_CLEAN_ERROR = 0.434780
"""AlexNet's top-1 error on the clean ImageNet validation images: the weights of torchvision, 56.522 % right."""


@dataclass(frozen=True, kw_only=True)
class ClassMask:
    """A head's logits for some of its classes.

    Attributes:
        logits: (M, S), column j for class ``classes[j]``; their softmax is the probability given one of the S classes.
        positions: (M,) int64 in 0..S-1, the predicted place in ``classes``.
        predictions: (M,) int64, the same as a class of the head.
    """

    logits: NDArray[np.floating]
    positions: NDArray[np.int64]
    predictions: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EffectiveRobustness:
    """Accuracies under shift against what the baseline models' line foretells.

    Attributes:
        slope: of the line, logit of shifted accuracy on logit of in-distribution accuracy.
        intercept: of the line.
        expected: (A,) float64, shifted accuracy on the line at each model's in-distribution accuracy.
        robustness: (A,) float64, shifted accuracy minus the expected one.
    """

    slope: float
    intercept: float
    expected: NDArray[np.float64]
    robustness: NDArray[np.float64]


def class_mask(logits: ArrayLike, classes: ArrayLike) -> ClassMask:
    """Restricts a head to the classes that a test set has, such as the 200 of ImageNet-A or ImageNet-R.

    >>> class_mask(np.array([[5.0, 1.0, 2.0]]), [1, 2]).predictions
    array([2])

    Args:
        logits: (M, C) of the whole head; log-probabilities do as well.
        classes: (S,) the head's classes to keep, each once, in the order of the test set's labels.

    Raises:
        ValueError: a class is outside 0..C-1 or named twice, or the logits are not finite.
    """
    scores = as_scores(logits, name="logits")
    kept = as_labels(classes, classes=scores.shape[1], name="classes")
    if len(np.unique(kept)) != len(kept):
        twice = np.flatnonzero(np.bincount(kept) > 1)
        raise ValueError(f"classes must be named once each, got {twice.tolist()} more than once")
    restricted = np.empty((len(scores), len(kept)), scores.dtype)
    for block in row_slices(*scores.shape):
        restricted[block] = scores[block][:, kept]
    positions = restricted.argmax(1).astype(np.int64)
    return ClassMask(logits=restricted, positions=positions, predictions=kept[positions])


def mean_corruption_error(
    errors: Mapping[str, ArrayLike], reference_errors: Mapping[str, ArrayLike] = ALEXNET_ERRORS
) -> float:
    """The mCE in percent (Hendrycks & Dietterich 2019, arXiv:1903.12261).

    Per corruption, the errors summed over severities divided by the reference's sum; the mean over corruptions.

    >>> round(mean_corruption_error(ALEXNET_ERRORS), 6)
    100.0

    Args:
        errors: per corruption, top-1 error in 0..1 at each severity, (5,), or the mean over them.
        reference_errors: the same of the reference model, for the same corruptions.

    Raises:
        ValueError: the corruptions or the numbers of severities differ, an error lies outside 0..1, or the
            reference makes none.
    """
    return _corruption_error(errors, reference_errors, 0.0, 0.0)


def relative_mean_corruption_error(
    errors: Mapping[str, ArrayLike],
    clean_error: float,
    reference_errors: Mapping[str, ArrayLike] = ALEXNET_ERRORS,
    reference_clean_error: float = ALEXNET_CLEAN_ERROR,
) -> float:
    """The relative mCE in percent: as `mean_corruption_error`, of what each error is above the clean one.

    Args:
        errors: as for `mean_corruption_error`.
        clean_error: the model's top-1 error in 0..1 on the uncorrupted images.
        reference_errors: as for `mean_corruption_error`.
        reference_clean_error: the reference's on the uncorrupted images.

    Raises:
        ValueError: as for `mean_corruption_error`, or a corruption does not raise the reference's error.
    """
    return _corruption_error(errors, reference_errors, clean_error, reference_clean_error)


def effective_robustness(
    accuracy: ArrayLike, shifted_accuracy: ArrayLike, baseline: ArrayLike, shifted_baseline: ArrayLike
) -> EffectiveRobustness:
    """How far models lie above the line of the baselines (Taori et al. 2020, arXiv:2007.00644).

    The line is the least-squares fit of logit(shifted accuracy) on logit(accuracy) over the baseline models.

    Args:
        accuracy: (A,) the models' in-distribution accuracies, between 0 and 1.
        shifted_accuracy: (A,) the same models' under shift.
        baseline: (B,) in-distribution accuracies of the baseline models, at least two different ones.
        shifted_baseline: (B,) theirs under shift.

    Raises:
        ValueError: an accuracy is not strictly between 0 and 1, shapes differ, or the baselines do not fix a line.
    """
    own, shifted = _accuracies("accuracy", accuracy), _accuracies("shifted_accuracy", shifted_accuracy)
    x, y = _accuracies("baseline", baseline), _accuracies("shifted_baseline", shifted_baseline)
    if own.shape != shifted.shape or x.shape != y.shape:
        raise ValueError(
            "accuracies must come in pairs, in-distribution and shifted, "
            f"got {len(own)} and {len(shifted)} of the models, {len(x)} and {len(y)} of the baselines"
        )
    if len(np.unique(x)) < 2:
        raise ValueError(f"the baselines must have two different accuracies at least to fix a line, got {x.tolist()}")
    slope, intercept = np.polynomial.polynomial.polyfit(_logit(x), _logit(y), 1)[::-1]
    expected = 1 / (1 + np.exp(-(slope * _logit(own) + intercept)))
    return EffectiveRobustness(
        slope=float(slope), intercept=float(intercept), expected=expected, robustness=shifted - expected
    )


def _corruption_error(
    errors: Mapping[str, ArrayLike], reference: Mapping[str, ArrayLike], clean: float, reference_clean: float
) -> float:
    if set(errors) != set(reference) or not errors:
        raise ValueError(
            f"errors must be given for the corruptions of the reference, got none for "
            f"{sorted(set(reference) - set(errors))} and some for {sorted(set(errors) - set(reference))}"
        )
    own_clean, other_clean = _errors("clean", clean), _errors("clean", reference_clean)
    ratios = []
    for name in errors:
        own, other = _errors(name, errors[name]), _errors(name, reference[name])
        if own.ndim and other.ndim and own.shape != other.shape:
            raise ValueError(f"{name} must have as many severities as the reference, {other.size}, got {own.size}")
        above = other.mean() - other_clean
        if above <= 0:
            raise ValueError(f"the reference's error on {name} must be above {other_clean:g}, got {other.mean():g}")
        ratios.append((own.mean() - own_clean) / above)
    return float(100 * np.mean(ratios))


def _errors(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim > 1 or not array.size or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"errors on {name} must be shares in 0..1, one per severity or their mean, got {array.tolist()}"
        )
    return array


def _accuracies(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size or not ((array > 0) & (array < 1)).all():
        raise ValueError(f"{name} must be shares strictly between 0 and 1, of shape (A,), got {array.tolist()}")
    return array


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(p) - np.log1p(-p)
