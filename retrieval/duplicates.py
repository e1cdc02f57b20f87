"""Near duplicates by their features: within a set, or between two, such as training and test images.

Shapes: N and M rows, D features, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import Pairing, as_features, as_pairing
from featurebank.retrieval._tiles import score_tiles

__all__ = ["Duplicates", "duplicate_groups", "near_duplicates"]

PAIRS = 10_000_000  # 240 MB of result


class Duplicates(NamedTuple):
    """Pairs of alike rows, the most alike first, then by row.

    Attributes:
        first: (P,) rows of the first set.
        second: (P,) rows of the second set; within one set always the higher row.
        similarity: (P,) float32 cosines.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float32]


def near_duplicates(
    features: ArrayLike, others: ArrayLike | None = None, *, threshold: float = 0.95, max_pairs: int = PAIRS
) -> Duplicates:
    """All pairs whose cosine is at least the threshold, each once.

    Exact, in tiles: nothing of the size N x M is held. A zero vector is like nothing.

    >>> near_duplicates([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]]).first.tolist()
    [0]

    Args:
        features: (N, D) float16, float32 or float64.
        others: (M, D); None looks for pairs within ``features``.
        threshold: above 0, at most 1.
        max_pairs: more than these are refused.

    Raises:
        ValueError: different widths, NaN or infinity, a threshold out of range, or too many pairs.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1; found {threshold}")
    rows = as_features(features)
    pairing = Pairing(rows, rows, "cosine") if others is None else as_pairing(rows, others, "cosine")
    level = np.float32(threshold) - np.float32(4e-7)  # a vector's cosine with itself may round to less than 1
    first, second, similarity = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    count = 0
    for queries, columns, tile in score_tiles(pairing, slice(0, len(rows))):
        if others is None and columns.stop <= queries.start + 1:
            continue
        left, right = np.nonzero(tile >= level)
        scores = tile[left, right]
        left, right = left + queries.start, right + columns.start
        kept = right > left if others is None else slice(None)
        first.append(left[kept])
        second.append(right[kept])
        similarity.append(scores[kept])
        count += len(first[-1])
        if count > max_pairs:
            raise ValueError(f"at most {max_pairs} pairs must be alike; found more at {threshold}; raise the threshold")
    duplicates = Duplicates(np.concatenate(first), np.concatenate(second), np.concatenate(similarity))
    order = np.lexsort((duplicates.second, duplicates.first, np.negative(duplicates.similarity)))
    return Duplicates(duplicates.first[order], duplicates.second[order], np.minimum(duplicates.similarity[order], 1))


def duplicate_groups(duplicates: Duplicates, n_rows: int) -> list[NDArray[np.int64]]:
    """Rows of one set that pairs connect, directly or through others: largest group first, rows ascending.

    >>> pairs = Duplicates(np.array([0, 3]), np.array([3, 4]), np.ones(2, np.float32))
    >>> [group.tolist() for group in duplicate_groups(pairs, 5)]
    [[0, 3, 4]]

    Args:
        duplicates: of `near_duplicates` within the set.
        n_rows: N.
    """
    from scipy import sparse  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    pairs = sparse.coo_array(
        (np.ones(len(duplicates.first), bool), (duplicates.first, duplicates.second)), shape=(n_rows, n_rows)
    )
    labels = connected_components(pairs, directed=False)[1]
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), int(group[0])))
