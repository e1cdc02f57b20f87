"""The exact search for the most similar gallery rows, a block of queries at a time.

Shapes: N gallery rows, M query rows, D features, k found for each query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import Metric, Pairing, as_pairing, check_k
from featurebank.retrieval._tiles import score_tiles

__all__ = ["nearest", "nearest_blocks"]

QUERY_ROWS = 4096  # the gallery is passed over once for so many queries
FIRST_COLUMNS = 1024  # the least of a query's similarities whose k-th tells what the others must reach


def nearest(
    queries: ArrayLike,
    gallery: ArrayLike,
    k: int,
    *,
    metric: Metric = "cosine",
    own: ArrayLike | None = None,
    device: str = "cpu",
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The k most similar gallery rows of each query, best first; of equal similarities the lower row comes first.

    Exact: every similarity is computed, in tiles, and the memory beside the result does not grow with M x N. What one
    query finds does not depend on the other queries. Similarities are float32 cosines (0 for a zero vector) or inner
    products, or minus the Euclidean distance in float64.

    >>> scores, rows = nearest([[1.0, 0.0]], [[0.0, 2.0], [3.0, 0.0], [5.0, 0.0]], 2)
    >>> scores.tolist(), rows.tolist()
    ([[1.0, 1.0]], [[1, 2]])

    Args:
        queries: (M, D) float16, float32 or float64.
        gallery: (N, D), a read-only memory map if need be.
        k: rows to find, at most N, or N - 1 where queries leave out their own row.
        metric: ``cosine``, ``inner_product`` or ``euclidean``.
        own: (M,) a gallery row that each query must not find, -1 for none; for a search of a set in itself
            ``np.arange(N)``.
        device: of torch, where it is not the CPU.

    Returns:
        Similarities (M, k) and gallery rows (M, k).

    Raises:
        ValueError: different widths, NaN or infinity, k out of range, or an unknown metric.
    """
    if device != "cpu":
        from featurebank.retrieval._device import nearest_on

        return nearest_on(device, *_checked(queries, gallery, k, metric, own))
    blocks = list(nearest_blocks(queries, gallery, k, metric=metric, own=own))
    return np.concatenate([scores for _, scores, _ in blocks]), np.concatenate([rows for _, _, rows in blocks])


def nearest_blocks(
    queries: ArrayLike, gallery: ArrayLike, k: int, *, metric: Metric = "cosine", own: ArrayLike | None = None
) -> Iterator[tuple[slice, NDArray[np.floating], NDArray[np.int64]]]:
    """Yields blocks of queries with what `nearest` finds for them, so that M x k need not be held either."""
    pairing, k, left_out = _checked(queries, gallery, k, metric, own)
    for start in range(0, len(pairing.queries), QUERY_ROWS):
        among = slice(start, min(start + QUERY_ROWS, len(pairing.queries)))
        yield among, *_nearest(pairing, k, left_out[among], among)


def _checked(
    queries: ArrayLike, gallery: ArrayLike, k: int, metric: Metric, own: ArrayLike | None
) -> tuple[Pairing, int, NDArray[np.integer]]:
    pairing = as_pairing(queries, gallery, metric)
    left_out = np.full(len(pairing.queries), -1) if own is None else np.asarray(own)
    if left_out.shape != (len(pairing.queries),) or left_out.dtype.kind not in "iu":
        raise ValueError(f"own must be one row for each of {len(pairing.queries)} queries; found {left_out.shape}")
    check_k(k, len(pairing.gallery) - bool((left_out >= 0).any()))
    return pairing, k, left_out


class _Best:
    """The best of one query so far: similarities and rows, in the order of the rows."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.scores = np.empty(0, dtype)
        self.rows = np.empty(0, np.int64)
        self.worst: Any = None  # the lowest of k; a later row must be above it
        self.seen = 0

    def update(self, row: NDArray[Any], k: int, floor: float) -> None:
        """Takes in the similarities of the next gallery rows; of the first ones, those that reach ``floor``."""
        columns = np.flatnonzero(row >= floor if self.worst is None else row > self.worst)
        if len(columns):
            self.scores = np.concatenate([self.scores, row[columns]])
            self.rows = np.concatenate([self.rows, columns + self.seen])
            self._keep(k)
        self.seen += len(row)

    def _keep(self, k: int) -> None:
        extra = len(self.scores) - k
        if extra < 0:
            return
        self.worst = np.partition(self.scores, extra)[extra]
        kept = np.flatnonzero(self.scores >= self.worst)
        if len(kept) > k:
            level = np.flatnonzero(self.scores[kept] == self.worst)
            kept = np.delete(kept, level[k - len(kept) :])
        self.scores, self.rows = self.scores[kept], self.rows[kept]


def _nearest(
    pairing: Pairing, k: int, own: NDArray[np.integer], among: slice
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    best: list[_Best] = []
    for rows, columns, tile in score_tiles(pairing, among):
        best = best or [_Best(tile.dtype) for _ in range(among.start, among.stop)]
        first, last = rows.start - among.start, rows.stop - among.start
        mine = own[first:last] - columns.start
        inside = np.flatnonzero((own[first:last] >= 0) & (mine >= 0) & (mine < tile.shape[1]))
        tile[inside, mine[inside]] = -np.inf
        for query, floor in enumerate(_floors(tile, k), first):
            best[query].update(tile[query - first], k, floor)
    order = [np.argsort(-one.scores, kind="stable") for one in best]
    scores = np.stack([one.scores[at] for one, at in zip(best, order, strict=True)])
    if pairing.metric == "euclidean":
        scores = -np.sqrt(np.maximum(-scores, 0))
    return scores, np.stack([one.rows[at] for one, at in zip(best, order, strict=True)])


def _floors(tile: NDArray[Any], k: int) -> NDArray[Any]:
    """What k of the similarities (q, g) of each query reach (q,): a bound that is quickly found, from the first few."""
    width = max(8 * k, FIRST_COLUMNS)
    if width >= tile.shape[1]:
        return np.full(len(tile), -np.inf)
    return np.partition(tile[:, :width], width - k, axis=1)[:, width - k]
