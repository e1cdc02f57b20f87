"""Class labels as the probes take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_classes(labels: NDArray[Any]) -> None:
    """Raises ValueError for numbers that are no classes, without scikit-learn's warning of few rows a class."""
    from sklearn.utils.multiclass import check_classification_targets  # type: ignore[import-untyped]

    if labels.dtype.kind not in "biuUS":
        check_classification_targets(labels)


def class_codes(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes, sorted, and each row's position among them.

    >>> classes, codes = class_codes(np.array(["cat", "ant", "cat"]))
    >>> classes.tolist(), codes.tolist()
    (['ant', 'cat'], [1, 0, 1])

    Raises:
        ValueError: fewer than two classes, or numbers that are no classes.
    """
    check_classes(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a probe needs at least two classes; found one class, {classes[0]}, in the training rows")
    return classes, codes.astype(np.int64)
