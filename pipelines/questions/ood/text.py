"""Text embeddings of class names, from a file.

Shapes: K classes, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import SplitRows, ordered_classes
from featurebank.pipelines.asking.texts import read_texts
from featurebank.pipelines.questions.ood.classifier import has_classes

__all__ = ["class_texts", "of_classes"]


def class_texts(path: Path, train: SplitRows) -> tuple[NDArray[Any], list[str]]:
    """The embeddings (K, D) of a file with one row for every class, and what to say of their order.

    Raises:
        ValueError: another shape, or a class without a row.
    """
    text = read_texts(path)
    width = train.features.shape[1]
    if text.ndim != 2 or text.shape[1] != width or len(text) < 2:
        raise ValueError(f"{path}: expected text embeddings (K, {width}) of at least two classes, found {text.shape}")
    if not has_classes(train):
        return text, []
    notes = ordered_classes(path, len(text), train)
    if (highest := int(train.labels.max())) >= len(text):
        raise ValueError(
            f"{path}: expected a row for each class of {train.name}, up to {highest}; found {len(text)} rows"
        )
    return text, notes


def of_classes(text: NDArray[Any], train: SplitRows) -> NDArray[Any]:
    """The embeddings (k, D) of the classes that the train rows have; all where these have none."""
    return np.asarray(text[np.unique(train.labels)]) if has_classes(train) else text
