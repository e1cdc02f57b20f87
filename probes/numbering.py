"""Whether a classifier of as many classes has the classes of some rows, in the same order: sizes alone do not tell.

Shapes: N rows, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.metrics import as_labels

__all__ = ["doubt"]

ALPHA = 1e-3
FAR = 0.5


def doubt(labels: ArrayLike, predictions: ArrayLike, classes: int) -> str:
    """Why the numbers of a classifier's classes are not those of the labels, in words; empty where nothing says so.

    Two things must hold. The classifier is far above chance: right on `FAR` of the rows that chance would leave wrong
    (Cohen's kappa, 1960), and by a binomial test whose level is `ALPHA` over K, for each of the K classes may agree by
    accident. And no other numbering explains the labels better: the best one on half of the rows (an assignment) is
    not right significantly more often, at `ALPHA`, on those rows of the other half where the two disagree.

    >>> doubt([0, 1, 2] * 20, [0, 1, 2] * 20, 3)
    ''
    >>> doubt([0, 1, 2, 3] * 20, [0, 1, 3, 2] * 20, 4)
    'it is right on 40 of 80 rows where chance gives 20'

    Args:
        labels: (N,) 0..K-1.
        predictions: (N,) 0..K-1.
        classes: K.

    Raises:
        ValueError: bad shapes or values.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    truth = as_labels(labels, classes=classes)
    predicted = as_labels(predictions, rows=len(truth), classes=classes, name="predictions")
    right = int((truth == predicted).sum())
    shares = [np.bincount(side, minlength=classes) / len(truth) for side in (truth, predicted)]
    chance = max(float(shares[0] @ shares[1]), 1 / classes)
    count = len(truth)
    if (
        chance >= 1
        or binomtest(right, count, chance, "greater").pvalue >= ALPHA / classes
        or (right / count - chance < FAR * (1 - chance))
    ):
        return f"it is right on {right:,} of {count:,} rows where chance gives {chance * count:,.0f}"
    order = np.argsort(truth, kind="stable")
    other = _best_numbering(truth[order[::2]], predicted[order[::2]], classes)
    rest = order[1::2]
    moved = rest[other[truth[rest]] != truth[rest]]
    better = int((predicted[moved] == other[truth[moved]]).sum())
    worse = int((predicted[moved] == truth[moved]).sum())
    if better > worse and binomtest(better, better + worse, 0.5, "greater").pvalue < ALPHA:
        instead = f"{better:,} of {len(moved):,} rows instead of {worse:,}"
        return f"with other numbers for some classes it is right on {instead}"
    return ""


def _best_numbering(labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """For each label (K,) the class that its rows are predicted as, each once; its own where nothing is for another."""
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching  # type: ignore[import-untyped]

    own = np.arange(classes)
    rows, columns = np.concatenate([labels, own]), np.concatenate([predictions, own])
    weights = np.concatenate([np.ones(len(labels)), np.full(classes, 0.5)])
    counts = coo_array((weights, (rows, columns)), shape=(classes, classes)).tocsr()
    labelled, chosen = min_weight_full_bipartite_matching(counts, maximize=True)
    numbering = own.copy()
    numbering[labelled] = chosen
    return numbering
