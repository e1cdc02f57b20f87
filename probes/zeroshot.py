"""Zero-shot classification: image features against the text features of class names, with prompt ensembling.

Shapes: M images, D features, K classes, T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]

from featurebank.probes._rows import as_features, query_data, row_blocks

__all__ = ["IMAGENET_TEMPLATES", "PLAIN_TEMPLATE", "ZeroShotClassifier", "render_prompts"]

PLAIN_TEMPLATE = "a photo of a {}."
IMAGENET_TEMPLATES = (  # the short list of OpenAI's notebook "Prompt Engineering for ImageNet"
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def render_prompts(class_names: Sequence[str], templates: Sequence[str] = (PLAIN_TEMPLATE,)) -> list[list[str]]:
    """Each class name in each template: K lists of T prompts, as text towers take them.

    >>> render_prompts(["cat"], ["a photo of a {}.", "art of the {}."])
    [['a photo of a cat.', 'art of the cat.']]

    Args:
        class_names: K names.
        templates: T texts with exactly one ``{}``.

    Raises:
        ValueError: no class, no template, a single string where a list belongs, or a template without one ``{}``.
    """
    for name, texts in (("class_names", class_names), ("templates", templates)):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"{name} must be a list of at least one string; found {texts!r}")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"a template must have exactly one {{}} for the class name; found {template!r}")
    return [[template.replace("{}", name) for template in templates] for name in class_names]


class ZeroShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Cosine of image and text features, times a scale, as logits: CLIP (Radford et al. 2021, arXiv:2103.00020).

    With T templates, a class is the mean of its T text features of unit length, scaled to unit length.

    >>> probe = ZeroShotClassifier(logit_scale=10.0).fit([[1.0, 0.0], [0.0, 1.0]])
    >>> probe.logits([[3.0, 4.0]]).round(5).tolist()
    [[6.0, 8.0]]

    Args:
        logit_scale: the model's own exp(logit scale), which its probabilities depend on and its predictions do not: 100
            of OpenAI's CLIP, others of others.

    Attributes:
        weights_: (K, D) float64 of unit length.
        classes_: 0..K-1.
        n_features_in_: D.
    """

    def __init__(self, logit_scale: float = 100.0) -> None:
        self.logit_scale = logit_scale

    def fit(self, text: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Ensembles text features (K, D), or (K, T, D) with T templates a class; needs no image.

        Args:
            text: class k's features in row k.
            y: unused.

        Raises:
            ValueError: other shapes, fewer than two classes, NaN or infinity, a zero vector, or a scale of 0 or less.
        """
        if not 0 < self.logit_scale < np.inf:
            raise ValueError(f"logit_scale must be above 0 and finite; found {self.logit_scale}")
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
        """Scaled cosine of each image to each class (M, K); 0 for an image whose features are all 0."""
        features = query_data(self, X)
        logits = np.empty((len(features), len(self.classes_)))
        for rows, block in row_blocks(features, np.float64):
            norms = np.linalg.norm(block, axis=1, keepdims=True)
            logits[rows] = self.logit_scale * (block / np.where(norms == 0, 1.0, norms)) @ self.weights_.T
        return logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Softmax of the logits (M, K)."""
        logits = self.logits(X)
        np.exp(logits - logits.max(1, keepdims=True), out=logits)
        logits /= logits.sum(1, keepdims=True)
        return logits

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The class of the highest logit (M,); of equal ones the lower."""
        best: NDArray[np.int64] = self.logits(X).argmax(1)
        return best


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not norms.all():
        raise ValueError(
            f"text features must not be zero; found a zero vector of class {np.argwhere(norms == 0)[0, 0]}"
        )
    return vectors / norms
