"""Text embeddings of class names, from a file.

Shapes: K classes, D features.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.ood.classifier import has_classes
from featurebank.pipelines.probing.inputs import SplitRows, load_array

__all__ = ["class_texts", "read_texts"]


def read_texts(path: Path) -> NDArray[Any]:
    """The array (K, D) of a ``.npy`` file, or of a ``.npz`` file: its only one, or the one called ``text``.

    Raises:
        ValueError: the file holds something else.
    """
    if path.suffix == ".npy":
        return load_array(path)
    try:
        with np.load(path, allow_pickle=False) as kept:
            names = kept.files
            if len(names) == 1 or "text" in names:
                return np.asarray(kept["text" if "text" in names else names[0]])
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected a .npz file of numbers, found something else: {error}") from error
    raise ValueError(f"{path}: expected one array, or one called text; found {', '.join(names) or 'none'}")


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
    labels = np.unique(train.labels)
    if labels[-1] >= len(text):
        raise ValueError(
            f"{path}: expected a row for each class of {train.name}, up to {labels[-1]}; found {len(text)} rows"
        )
    return np.asarray(text[labels])
