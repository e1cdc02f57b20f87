"""Zero-shot classification: image features against the text features of class names, with prompt ensembling.

Shapes: M images, D features, K classes, T templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]

from featurebank.probes._parameters import Bound, Positive, check_parameters
from featurebank.probes._prediction import SoftmaxClassifier
from featurebank.probes._rows import query_data, row_blocks
from featurebank.retrieval._features import as_features

__all__ = ["ZeroShotClassifier"]


@dataclass(eq=False, repr=False)
class ZeroShotClassifier(SoftmaxClassifier, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Cosine of image and text features, times a scale, as logits: CLIP (Radford et al. 2021, arXiv:2103.00020).

    With T templates, a class is the mean of its T text features of unit length, scaled to unit length.

    >>> probe = ZeroShotClassifier(logit_scale=10.0).fit([[1.0, 0.0], [0.0, 1.0]])
    >>> probe.logits([[3.0, 4.0]]).round(5).tolist()
    [[6.0, 8.0]]

    Args:
        logit_scale: the model's own exp(logit scale), which its probabilities depend on and its predictions do not: 100
            of OpenAI's CLIP, others of others.
        logit_bias: the model's own, as SigLIP has one, which is added then. Probabilities of classes that exclude each
            other do not depend on it, the sigmoid of a logit does.

    Attributes:
        weights_: (K, D) float64 of unit length.
        classes_: 0..K-1.
        n_features_in_: D.
    """

    logit_scale: Positive = 100.0
    logit_bias: Annotated[float, Bound("finite", np.isfinite)] = 0.0

    def fit(self, text: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Ensembles text features (K, D), or (K, T, D) with T templates a class; needs no image.

        Args:
            text: class k's features in row k.
            y: unused.

        Raises:
            ValueError: other shapes, fewer than two classes, NaN or infinity, a zero vector, a scale of 0 or less, or a
                bias that is not finite.
        """
        check_parameters(self)
        features = np.asarray(text, np.float64)
        if features.ndim not in (2, 3) or 0 in features.shape or len(features) < 2:
            raise ValueError(
                f"text features must be (K, D) or (K, T, D) with at least two classes; found shape {features.shape}"
            )
        templates = features.reshape(len(features), -1, features.shape[-1])
        for _ in row_blocks(as_features(templates.reshape(-1, templates.shape[2])), np.float64, name="text features"):
            pass
        self.weights_ = _unit(_unit(templates).mean(1))
        self.classes_ = np.arange(len(features))
        self.n_features_in_ = features.shape[-1]
        return self

    def logits(self, X: ArrayLike) -> NDArray[np.float64]:
        """Scaled cosine of each image to each class and the bias (M, K); for an image of zeros the bias alone."""
        features = query_data(self, X)
        logits = np.empty((len(features), len(self.classes_)))
        for rows, block in row_blocks(features, np.float64):
            norms = np.linalg.norm(block, axis=1, keepdims=True)
            logits[rows] = self.logit_scale * (block / np.where(norms == 0, 1.0, norms)) @ self.weights_.T
        if self.logit_bias:
            logits += self.logit_bias
        return logits


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not norms.all():
        raise ValueError(
            f"text features must not be zero; found a zero vector of class {np.argwhere(norms == 0)[0, 0]}"
        )
    return vectors / norms
