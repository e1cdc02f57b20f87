"""Which training rows are held out for a choice, where a user gives no validation rows: one rule for all probes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.probes._training import held_out


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
