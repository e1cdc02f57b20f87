"""What linear models predict of features, in blocks of rows.

Shapes: M rows, D features, K classes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import query_data, row_blocks, row_slices

Float = TypeVar("Float", bound=np.floating)


class SoftmaxClassifier:
    """The predictions of a fitted classifier with a logit for each class.

    Attributes:
        classes_: (K,).
    """

    classes_: NDArray[Any]

    def logits(self, X: ArrayLike) -> NDArray[np.floating]:
        """(M, K), computed in blocks of rows."""
        raise NotImplementedError

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """(M, K) logits; (M,) of the second class less the first where there are two."""
        logits = self.logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of each class (M, K)."""
        from scipy.special import softmax  # type: ignore[import-untyped]

        return softmax(self.logits(X).astype(np.float64), axis=1)  # type: ignore[no-any-return]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class (M,); of equal ones the first."""
        best = self.logits(X).argmax(1)
        return self.classes_[best]  # type: ignore[no-any-return]


class LinearPredictor(SoftmaxClassifier):
    """The predictions of a fitted linear classifier.

    Attributes:
        classes_: (K,).
        coef_: (K, D) float64, (1, D) for two classes.
        intercept_: (K,) float64, (1,) for two classes.
    """

    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    def logits(self, X: ArrayLike) -> NDArray[np.float64]:
        """(M, K); 0 for the first of two classes."""
        return both_logits(affine(query_data(self, X), self.coef_, self.intercept_))


def affine(features: NDArray[Any], coef: NDArray[np.float64], intercept: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, K) float64 of features (M, D), coefficients (K, D) and intercepts (K,).

    Raises:
        ValueError: a feature that is not finite.
    """
    logits = np.empty((len(features), len(coef)))
    for rows, block in row_blocks(features, np.float64):
        logits[rows] = block @ coef.T + intercept
    return logits


def both_logits(logits: NDArray[Float]) -> NDArray[Float]:
    """(M, K) logits; one of two classes alone, (M,) or (M, 1), gets a 0 beside it."""
    if logits.ndim == 2 and logits.shape[1] > 1:
        return logits
    second = logits.reshape(-1)
    return np.stack([np.zeros_like(second), second], 1)


def log_probabilities(logits: NDArray[Float], temperature: float = 1.0) -> NDArray[Float]:
    """The log-softmax of logits (M, K) over a temperature, in their dtype.

    >>> log_probabilities(np.array([[0.0, np.log(3.0)]])).round(4).tolist()
    [[-1.3863, -0.2877]]
    """
    from scipy.special import log_softmax

    log_p = np.empty_like(logits)
    for rows in row_slices(*logits.shape):
        log_p[rows] = log_softmax(logits[rows] / temperature, axis=1)
    return log_p
