"""Diffusion on the graph of nearest neighbours (Zhou et al. 2004; Iscen et al. 2017, arXiv:1611.05113).

Shapes: M queries, N gallery rows, D features, k listed for each query; b queries solved together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse  # type: ignore[import-untyped]

from featurebank.retrieval._features import as_pairing, check_k
from featurebank.retrieval.search import nearest, nearest_blocks

__all__ = ["diffuse"]

SOLVED_VALUES = 2**22  # of each of the solver's four (N, b) float64 arrays: 32 MiB


def diffuse(
    queries: ArrayLike,
    gallery: ArrayLike | None,
    k: int,
    *,
    neighbours: int = 50,
    query_neighbours: int = 10,
    alpha: float = 0.99,
    gamma: float = 3.0,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k gallery rows of highest diffused similarity for each query.

    A_ij = max(cos_ij, 0)^gamma where i and j are among each other's nearest ``neighbours``, S = D^-1/2 A D^-1/2 with
    the row sums D, y_i = max(cos(q, i), 0)^gamma for the ``query_neighbours`` of a query, and f solves
    (I - alpha S) f = y by conjugate gradients. Rows that the graph does not connect to a query have f = 0 and follow in
    the order of their cosines.

    Args:
        queries: (M, D) float16, float32 or float64.
        gallery: (N, D), a read-only memory map if need be; None: the queries are the gallery, and none finds itself.
        k: rows listed for each query, at most N, or N - 1 without a gallery.
        neighbours: of the graph; at most N - 1 are taken.
        query_neighbours: at most N (N - 1) are taken.
        alpha: from 0 to below 1: how far similarity spreads.
        gamma: exponent of similarities.
        tolerance: of the residual, relative to y.
        max_iterations: of the solver.

    Returns:
        f (M, k) descending, and gallery rows (M, k).

    Raises:
        ValueError: different widths, NaN or infinity, or a parameter out of range.
        RuntimeError: the solver did not reach the tolerance.
    """
    itself = gallery is None
    pairing = as_pairing(queries, queries if gallery is None else gallery, "cosine")
    n_gallery = len(pairing.gallery)
    check_k(k, n_gallery - itself)
    for name, value in (("neighbours", neighbours), ("query_neighbours", query_neighbours)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; found {value}")
    if not (0 <= alpha < 1 and gamma > 0):
        raise ValueError(f"alpha must be from 0 to below 1 and gamma above 0; found {alpha} and {gamma}")
    graph = _graph(pairing.gallery, min(neighbours, n_gallery - 1), gamma)
    seeds = min(query_neighbours, n_gallery - itself)
    own = np.arange(len(pairing.queries)) if itself else None
    scores, rows = np.empty((len(pairing.queries), k)), np.empty((len(pairing.queries), k), np.int64)
    step = max(1, SOLVED_VALUES // n_gallery)
    for at, cosines, near in nearest_blocks(pairing.queries, pairing.gallery, max(k, seeds), own=own):
        for start in range(0, len(near), step):
            part = slice(start, min(start + step, len(near)))
            y = np.zeros((n_gallery, part.stop - part.start))
            columns = np.arange(y.shape[1])[:, None]
            y[near[part, :seeds], columns] = np.maximum(cosines[part, :seeds], 0) ** gamma
            f = _solved(graph, y, alpha, tolerance, max_iterations)
            if itself:
                f[at.start + part.start + columns[:, 0], columns[:, 0]] = 0
            for column in range(y.shape[1]):
                query = at.start + part.start + column
                scores[query], rows[query] = _ordered(f[:, column], near[part.start + column], k)
    return scores, rows


def _graph(gallery: NDArray[Any], neighbours: int, gamma: float) -> Any:
    """S, (N, N) sparse, symmetric."""
    n = len(gallery)
    if neighbours == 0:
        return sparse.csr_array((n, n))
    cosines, near = nearest(gallery, gallery, neighbours, own=np.arange(n))
    values = np.maximum(cosines.astype(np.float64), 0) ** gamma
    edges = sparse.csr_array((values.reshape(-1), (np.repeat(np.arange(n), neighbours), near.reshape(-1))), (n, n))
    mutual = edges.minimum(edges.T)
    sums = mutual.sum(1)
    scale = sparse.diags_array(1 / np.sqrt(np.where(sums > 0, sums, 1)))
    return (scale @ mutual @ scale).tocsr()


def _solved(
    graph: Any, y: NDArray[np.float64], alpha: float, tolerance: float, max_iterations: int
) -> NDArray[np.float64]:
    """Conjugate gradients for every column of y at once."""
    f, residual = np.zeros_like(y), y.copy()
    direction = y.copy()
    squares = np.einsum("ij,ij->j", residual, residual)
    goal = tolerance**2 * squares
    for _ in range(max_iterations):
        if (squares <= goal).all():
            return f
        product = direction - alpha * (graph @ direction)
        curvature = np.einsum("ij,ij->j", direction, product)
        length = np.where(squares > goal, squares / np.where(curvature > 0, curvature, 1), 0)
        f += length * direction
        residual -= length * product
        before, squares = squares, np.where(length > 0, np.einsum("ij,ij->j", residual, residual), squares)
        direction *= squares / np.where(before > 0, before, 1)
        direction += residual
    raise RuntimeError(
        f"the residual must fall below {tolerance} of y within {max_iterations} iterations; "
        f"found {np.sqrt((squares / np.where(goal > 0, goal, 1)).max()) * tolerance:.2g}; allow more iterations"
    )


def _ordered(f: NDArray[np.float64], near: NDArray[np.int64], k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    reached = np.flatnonzero(f > 0)
    reached = reached[np.argsort(-f[reached], kind="stable")][:k]
    others = near[~np.isin(near, reached)][: k - len(reached)]
    rows = np.concatenate([reached, others])
    return np.maximum(f[rows], 0), rows
