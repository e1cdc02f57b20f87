"""Query expansion and database-side augmentation: rows moved towards their nearest neighbours.

All work on cosine similarity and return new float32 rows of unit length; search with them as with any features.

Shapes: N gallery rows, M query rows, D features, n neighbours.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import Pairing, as_features, as_pairing, check_choice, rows_of, unit
from featurebank.retrieval.search import nearest_blocks

__all__ = ["Weights", "augment_database", "expand_queries"]

Weights = Literal["uniform", "rank", "similarity"]

GATHERED_VALUES = 2**24  # 64 MiB of float32


def expand_queries(
    queries: ArrayLike,
    gallery: ArrayLike,
    n: int = 10,
    *,
    weights: Weights = "similarity",
    alpha: float = 3.0,
    own: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Each query plus its n nearest gallery rows, weighted, of unit length (M, D).

    With ``uniform`` weights average query expansion (Chum et al. 2007): q + sum of g_i. With ``similarity`` alpha query
    expansion (Radenović et al. 2018, arXiv:1711.02512): q + sum of max(cos(q, g_i), 0)^alpha g_i. With ``rank`` the
    i-th neighbour, from 1, has weight (n - i + 1) / (n + 1).

    >>> expand_queries([[1.0, 0.0]], [[0.0, 2.0], [-1.0, 0.0]], 1, weights="uniform").round(4).tolist()
    [[0.707099974155426, 0.707099974155426]]

    Args:
        queries: (M, D) float16, float32 or float64.
        gallery: (N, D), a read-only memory map if need be.
        n: neighbours.
        weights: ``uniform``, ``rank`` or ``similarity``.
        alpha: exponent of ``similarity``.
        own: (M,) the row in the gallery that is the query itself, -1 for none; it is no neighbour.

    Raises:
        ValueError: different widths, NaN or infinity, n out of range, or weights that are not known.
    """
    pairing = as_pairing(queries, gallery, "cosine")
    return _moved(pairing, n, weights, alpha, own)


def augment_database(
    gallery: ArrayLike, n: int = 10, *, weights: Weights = "rank", alpha: float = 3.0
) -> NDArray[np.float32]:
    """Each gallery row plus its n nearest other rows, weighted, of unit length (N, D).

    Turcot & Lowe 2009 add with ``uniform`` weights; Gordo et al. 2017 (arXiv:1610.07940) with ``rank``, where the row
    itself has weight 1 and its i-th neighbour (n - i + 1) / (n + 1).

    Args:
        gallery: (N, D), a read-only memory map if need be.
        n: neighbours.
        weights: as in `expand_queries`.
        alpha: likewise.

    Raises:
        ValueError: as `expand_queries`.
    """
    rows = as_features(gallery, "gallery")
    return _moved(Pairing(rows, rows, "cosine"), n, weights, alpha, np.arange(len(rows)))


def _moved(pairing: Pairing, n: int, weights: Weights, alpha: float, own: ArrayLike | None) -> NDArray[np.float32]:
    rows, gallery, _ = pairing
    check_choice("weights", weights, ("uniform", "rank", "similarity"))
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be finite and at least 0; found {alpha}")
    moved = np.empty(rows.shape, np.float32)
    step = max(1, GATHERED_VALUES // (max(n, 1) * rows.shape[1]))
    for at, scores, near in nearest_blocks(rows, gallery, n, own=own):
        moved[at] = rows_of(rows, at, "cosine", "queries")
        if weights == "similarity":
            factors = np.maximum(scores, 0) ** np.float32(alpha)
        else:
            falling = np.arange(n, 0, -1, dtype=np.float32) / np.float32(n + 1)
            factors = np.broadcast_to(falling if weights == "rank" else np.ones(n, np.float32), scores.shape)
        for start in range(0, len(near), step):
            part = slice(start, start + step)
            neighbours = rows_of(gallery, near[part].reshape(-1), "cosine", "gallery").reshape(*near[part].shape, -1)
            moved[at][part] += np.matmul(factors[part, None], neighbours)[:, 0]
    return unit(moved)
