"""Which training rows are held out for a choice, where a user gives no validation rows: one rule for all probes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stratified_part(
    labels: NDArray[Any], fraction: float, seed: int | None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows to fit on and those held out, a stratified part; neither is in an order that means anything.

    scikit-learn's draw, where it has one. It has none for classes of one row, which stay with the rows to fit on, nor
    for a part of fewer rows than classes: then `held_out` draws of each class.

    >>> fitting, held = stratified_part(np.array([0] * 5 + [1] * 5 + [2]), 0.2, 0)
    >>> len(fitting), len(held), 10 in fitting
    (9, 2, True)

    Raises:
        ValueError: no class has two rows, or the fraction is not within 0 and 1.
    """
    from sklearn.model_selection import StratifiedShuffleSplit  # type: ignore[import-untyped]

    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    few = min(fraction, 1 - fraction) * len(labels) < len(counts)
    if not 0 < fraction < 1 or counts.min() < 2 or few:
        return held_out(codes, fraction, np.random.default_rng(seed))
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=fraction, random_state=seed)
    fitting, held = next(splitter.split(np.empty((len(labels), 1)), labels))
    return fitting, held


def held_out(
    codes: NDArray[np.int64], fraction: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to fit on and rows to validate on, both ascending: that fraction of every class, rounded, at least one row.

    A class of one row stays with the rows to fit on.

    >>> fitting, validating = held_out(np.repeat([0, 1, 2], [5, 10, 1]), 0.2, np.random.default_rng(0))
    >>> len(fitting), len(validating)
    (13, 3)

    Raises:
        ValueError: the fraction is not within 0 and 1, or no class has two rows.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be above 0 and below 1; found {fraction!r}")
    chosen = np.zeros(len(codes), bool)
    order = generator.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    counts = np.bincount(codes)
    taken = np.clip(np.rint(counts * fraction).astype(np.int64), 1, np.maximum(counts - 1, 0))
    for start, n in zip(np.cumsum(counts) - counts, np.where(counts < 2, 0, taken), strict=True):
        chosen[order[start : start + n]] = True
    if not chosen.any():
        raise ValueError(
            f"a class must have at least two rows to validate on one; found one row in each of {len(counts)} classes; "
            "give validation=(features, labels)"
        )
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
