"""How far a classifier's confidence can be trusted, and one number that mends it.

Shapes: M rows, K classes, B bins.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]

from featurebank.probes._parameters import Count, Positive, check_parameters
from featurebank.probes._rows import row_slices
from featurebank.probes.metrics import Closed, as_labels, as_scores, confidence_bins

__all__ = ["ReliabilityDiagram", "TemperatureScaling", "reliability_diagram"]


@dataclass(frozen=True, kw_only=True)
class ReliabilityDiagram:
    """Accuracy against confidence, in bins of equal width.

    Attributes:
        edges: (B + 1,) float64, 0 to 1.
        count: (B,) int64 rows per bin; with ``closed="left"`` (B + 1,), the last for a confidence of exactly 1.
        confidence: of the same shape, float64, mean probability of the predicted class; NaN in an empty bin.
        accuracy: of the same shape, float64, share of right predictions; NaN in an empty bin.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability_diagram(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15, closed: Closed = "right"
) -> ReliabilityDiagram:
    """The data of a reliability diagram (Guo et al. 2017, arXiv:1706.04599).

    >>> reliability_diagram([0, 1], np.array([[0.9, 0.1], [0.7, 0.3]]), bins=2).accuracy
    array([nan, 0.5])

    Args:
        labels: (M,).
        probabilities: (M, K).
        bins: B.
        closed: "right" for (a, b], "left" for [a, b), as for `featurebank.probes.metrics.confidence_bins`.

    Raises:
        ValueError: as for `featurebank.probes.metrics.confidence_bins`.
    """
    count, confidence, accuracy = confidence_bins(labels, probabilities, bins=bins, closed=closed)
    return ReliabilityDiagram(edges=np.arange(bins + 1) / bins, count=count, confidence=confidence, accuracy=accuracy)


@dataclass(eq=False, repr=False, kw_only=True)
class TemperatureScaling(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Divides logits by the temperature that minimises the NLL of held-out rows (Guo et al. 2017, arXiv:1706.04599).

    Newton's method in log T, in float64, kept inside a bracket of the minimum. The NLL is convex in 1 / T, so that
    minimum is the only one.

    >>> scaling = TemperatureScaling().fit(np.array([[4.0, 0.0]] * 4), [0, 0, 0, 1])
    >>> round(scaling.temperature_, 6)  # 4 / log(3)
    3.640957

    Args:
        tol: the step in log T below which the search ends.
        max_iter: passes over the logits after which it warns and ends.

    Attributes:
        temperature_: T, above 0.
        nll_: mean NLL of the rows of `fit` at T, in nats.
        n_iter_: passes over the logits.
    """

    tol: Positive = 1e-10
    max_iter: Count = 100

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Finds T on validation rows: logits (M, K), labels (M,).

        Raises:
            ValueError: a parameter or the input is not valid, or the NLL has no minimum: every label has its row's
                greatest logit (T goes to 0), or labels' logits are no greater than average (T goes to infinity).
        """
        check_parameters(self)
        scores = as_scores(logits, name="logits", finite=True)
        truth = as_labels(labels, rows=len(scores), classes=scores.shape[1])
        _check_minimum(scores, truth)
        low, high, log_t = -np.inf, np.inf, 0.0
        for passes in range(1, self.max_iter + 1):
            self.n_iter_ = passes
            self.nll_, slope, curvature = _derivatives(scores, truth, log_t)
            step = float(np.clip(-slope / curvature, -1, 1)) if curvature > 0 else -float(np.sign(slope))
            if abs(step) <= self.tol or high - low <= self.tol:
                break
            low, high = (log_t, high) if slope < 0 else (low, log_t)
            log_t = log_t + step if low < log_t + step < high else (low + high) / 2
        else:
            warnings.warn(
                f"T must settle within {self.max_iter} passes, got a last step of {step:.3g} in log T; raise max_iter",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.temperature_ = float(np.exp(log_t))
        self.n_features_in_ = scores.shape[1]
        return self

    def transform(self, logits: ArrayLike) -> NDArray[np.floating]:
        """The logits (M, K) divided by T, float64 if they are, else float32.

        Raises:
            ValueError: the logits are not finite or have another number of classes than those of `fit`.
        """
        check_is_fitted(self)
        scores = as_scores(logits, name="logits", finite=True)
        if scores.shape[1] != self.n_features_in_:
            raise ValueError(f"logits must have the {self.n_features_in_} classes of fit, got {scores.shape[1]}")
        scaled: NDArray[np.floating] = np.divide(scores, self.temperature_, dtype=np.result_type(scores, np.float32))
        return scaled

    def predict_proba(self, logits: ArrayLike) -> NDArray[np.floating]:
        """The calibrated probabilities (M, K): softmax of `transform`, in its dtype."""
        scaled = self.transform(logits)
        scaled -= scaled.max(1, keepdims=True)
        np.exp(scaled, out=scaled)
        scaled /= scaled.sum(1, keepdims=True)
        return scaled


def _check_minimum(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> None:
    """Looks at the slopes of the NLL where 1 / T goes to 0 and to infinity: below 0 and above 0 if it has a minimum."""
    to_mean = to_greatest = 0.0
    for block in row_slices(*logits.shape):
        own = np.take_along_axis(logits[block], labels[block, None], 1)[:, 0].astype(np.float64)
        to_mean += float((logits[block].mean(1, dtype=np.float64) - own).sum())
        to_greatest += float((logits[block].max(1) - own).sum())
    if to_greatest == 0:
        raise ValueError(
            "some label must not have the greatest logit of its row, else the NLL falls until T is 0, "
            f"got none of {len(labels)} rows; fit on more or harder validation rows"
        )
    if to_mean >= 0:
        raise ValueError(
            "the labels' logits must be greater than their rows' means on average, else the NLL falls until T is "
            f"infinite, got {-to_mean / len(labels):.6g} above the mean; check that labels and logits belong together"
        )


def _derivatives(logits: NDArray[np.floating], labels: NDArray[np.int64], log_t: float) -> tuple[float, float, float]:
    """The mean NLL at log T, and its first and second derivative by log T."""
    beta = float(np.exp(-log_t))
    nll = first = second = 0.0
    for block in row_slices(*logits.shape):
        z = logits[block].astype(np.float64)
        z -= z.max(1, keepdims=True)
        own = np.take_along_axis(z, labels[block, None], 1)[:, 0]
        weights = np.exp(beta * z)
        total = weights.sum(1)
        mean = np.einsum("ij,ij->i", weights, z) / total
        z -= mean[:, None]
        nll += float((np.log(total) - beta * own).sum())
        first += float((mean - own).sum())
        second += float((np.einsum("ij,ij,ij->i", weights, z, z) / total).sum())
    first, second = beta * first / len(labels), beta * beta * second / len(labels)
    return nll / len(labels), -first, first + second
