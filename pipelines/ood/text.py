"""Text embeddings of class names, from a file.

Shapes: K classes, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.ood.classifier import has_classes
from featurebank.pipelines.probing.inputs import SplitRows, ordered_classes
from featurebank.pipelines.probing.texts import read_texts

__all__ = ["class_texts"]


def class_texts(path: Path, train: SplitRows) -> NDArray[Any]:
    """The embeddings (k, D) of the classes that the train rows have, from a file with one row for every class.

    Raises:
        ValueError: another shape, or a class without a row.
    """
    text = read_texts(path)
    width = train.features.shape[1]
    if text.ndim != 2 or text.shape[1] != width or len(text) < 2:
        raise ValueError(f"{path}: expected text embeddings (K, {width}) of at least two classes, found {text.shape}")
    if not has_classes(train):
        return text
    ordered_classes(path, len(text), train)
    labels = np.unique(train.labels)
    if labels[-1] >= len(text):
        raise ValueError(
            f"{path}: expected a row for each class of {train.name}, up to {labels[-1]}; found {len(text)} rows"
        )
    return np.asarray(text[labels])
