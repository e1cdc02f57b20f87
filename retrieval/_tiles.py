"""The similarities of all queries to all gallery rows, one tile at a time.

Every tile of a call has the same shape, its tail padded with zero rows: the same kernel then computes every number, so
equal vectors have equal similarities wherever they stand, and ties are ties.

Shapes: N gallery rows, M query rows, D features; q and g rows of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.retrieval._features import Metric, Pairing, rows_of

TILE_QUERIES, TILE_GALLERY = 512, 65536  # 128 MiB of float32
TILE_VALUES = 2**26  # of the gallery rows of a tile: 256 MiB of float32
ALIGNMENT = 64  # rows: a multiple of every kernel's own tile
PAIR_GALLERY = 2048  # the least width of a tile of chosen rows: below, BLAS may take another kernel


def score_tiles(pairing: Pairing, among: slice) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Yields where some of the queries and of the gallery rows stand, and their similarities (q, g).

    Similarities are float32 cosines or inner products, or minus the squared Euclidean distances in float64. The gallery
    is passed over once for the queries ``among``; the array is used again for the next tile, and may be written to.
    """
    queries, gallery, metric = pairing
    across, down = _tile_rows(len(gallery), _widest(pairing)), _tile_rows(len(queries), TILE_QUERIES)
    buffer = np.empty((down, across), score_dtype(metric))
    for columns in _pieces(slice(0, len(gallery)), across):
        some_gallery = _operand(gallery, columns, metric, "gallery", across)
        for rows in _pieces(among, down):
            some_queries = _operand(queries, rows, metric, "queries", down)
            _score(some_queries, some_gallery, metric, buffer)
            yield rows, columns, buffer[: rows.stop - rows.start, : columns.stop - columns.start]


def pair_scores(
    pairing: Pairing, query_rows: NDArray[np.int64], gallery_rows: NDArray[np.int64], among: slice
) -> NDArray[Any]:
    """The similarity (P,) of each pair of a query and a gallery row, as the tiles would hold it.

    Args:
        pairing: queries (M, D) and gallery (N, D).
        query_rows: (P,), ascending.
        gallery_rows: (P,).
        among: the queries that the pairs are of.
    """
    queries, gallery, metric = pairing
    down = _tile_rows(len(queries), TILE_QUERIES)
    scores = np.empty(len(query_rows), score_dtype(metric))
    for rows in _pieces(among, down):
        pairs = slice(*np.searchsorted(query_rows, (rows.start, rows.stop)))
        needed, column = np.unique(gallery_rows[pairs], return_inverse=True)
        some_queries = _operand(queries, rows, metric, "queries", down)
        here, values = query_rows[pairs] - rows.start, np.empty(len(column), scores.dtype)
        for part in _pieces(slice(0, len(needed)), _widest(pairing)):
            width = max(PAIR_GALLERY, _tile_rows(part.stop - part.start, _widest(pairing)))
            some_gallery = _operand(gallery, needed[part], metric, "gallery", width)
            tile = _score(some_queries, some_gallery, metric, np.empty((down, width), scores.dtype))
            inside = (column >= part.start) & (column < part.stop)
            values[inside] = tile[here[inside], column[inside] - part.start]
        scores[pairs] = values
    return scores


def is_one_tile(pairing: Pairing) -> bool:
    """Whether each tile holds all gallery rows."""
    return len(pairing.gallery) <= _widest(pairing)


def score_dtype(metric: Metric) -> type[np.floating]:
    """The dtype of similarities: float64 for euclidean, where float32 loses small distances between long vectors."""
    return np.float64 if metric == "euclidean" else np.float32


def _pieces(among: slice, most: int) -> Iterator[slice]:
    for start in range(among.start, among.stop, most):
        yield slice(start, min(start + most, among.stop))


def _widest(pairing: Pairing) -> int:
    return max(ALIGNMENT, min(TILE_GALLERY, TILE_VALUES // int(pairing.gallery.shape[1])))


def _tile_rows(rows: int, most: int) -> int:
    """Rows of each tile, all alike: as few tiles as ``most`` allows, as little padding as they need."""
    tiles = -(-rows // most)
    return -(-rows // (tiles * ALIGNMENT)) * ALIGNMENT


def _operand(
    features: NDArray[Any], rows: slice | NDArray[np.int64], metric: Metric, name: str, height: int
) -> NDArray[Any]:
    """Prepared rows, padded with zero rows to a height."""
    block = rows_of(features, rows, metric, name)
    limit = np.sqrt(np.finfo(block.dtype).max / (4 * block.shape[1]))  # no product of two such rows overflows
    if metric != "cosine" and max(block.max(), -block.min()) > limit:
        raise ValueError(f"{name} must be within {limit:.2g} for {metric}; found {max(block.max(), -block.min()):.2g}")
    if len(block) == height:
        return block
    padded = np.zeros((height, block.shape[1]), block.dtype)
    padded[: len(block)] = block
    return padded


def _score(queries: NDArray[Any], gallery: NDArray[Any], metric: Metric, out: NDArray[Any]) -> NDArray[Any]:
    np.matmul(queries, gallery.T, out=out)
    if metric == "euclidean":
        out *= 2
        out -= np.einsum("ij,ij->i", gallery, gallery)
        out -= np.einsum("ij,ij->i", queries, queries)[:, None]
    return out
