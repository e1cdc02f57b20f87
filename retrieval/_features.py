"""Features as retrieval reads them: checked, then prepared in blocks of rows, never copied whole.

Shapes: N gallery rows, M query rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Literal["cosine", "inner_product", "euclidean"]

METRICS = ("cosine", "inner_product", "euclidean")
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
BLOCK_VALUES = 2**24  # 64 MiB of float32


def as_features(features: ArrayLike, name: str = "features") -> NDArray[Any]:
    """(N, D) float16, float32 or float64 as they come, a memory map included; other numbers become float64.

    Raises:
        ValueError: not two axes, no row, no column, or no numbers.
    """
    array = np.asarray(features)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be (N, D) with at least one row and one column; found shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be real numbers; found dtype {array.dtype}")
    return array if array.dtype in FLOATS else array.astype(np.float64)


class Pairing(NamedTuple):
    """Queries (M, D), gallery (N, D), and how they are compared."""

    queries: NDArray[Any]
    gallery: NDArray[Any]
    metric: Metric


def as_pairing(queries: ArrayLike, gallery: ArrayLike, metric: Metric) -> Pairing:
    """Queries and gallery of the same width, and a known metric.

    Raises:
        ValueError: as `as_features`, or different widths, or another metric.
    """
    check_choice("metric", metric, METRICS)
    pairing = Pairing(as_features(queries, "queries"), as_features(gallery, "gallery"), metric)
    if pairing.queries.shape[1] != pairing.gallery.shape[1]:
        raise ValueError(
            f"queries and gallery must have the same D; found {pairing.queries.shape} and {pairing.gallery.shape}; "
            "use the same output of the same backbone"
        )
    return pairing


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError where a parameter is none of the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")


def check_k(k: int, rows: int, name: str = "k") -> None:
    """Raises ValueError where there are no k gallery rows."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= rows:
        raise ValueError(
            f"{name} must be a whole number between 1 and the {rows} gallery rows to find, n_samples = {rows}; "
            f"found {k}"
        )


def rows_of(
    features: NDArray[Any], rows: slice | NDArray[np.integer], metric: Metric, name: str = "features"
) -> NDArray[Any]:
    """Fresh, contiguous rows as they enter a product: float32, of unit length for cosine; float64 for euclidean.

    Raises:
        ValueError: a value that is not finite in that dtype.
    """
    with np.errstate(over="ignore"):
        block = np.array(features[rows], dtype=np.float64 if metric == "euclidean" else np.float32, order="C")
    largest = np.maximum(block.max(1), -block.min(1))
    if not np.isfinite(largest).all():
        bad = int(np.flatnonzero(~np.isfinite(largest))[0])
        row = (rows.start or 0) + bad if isinstance(rows, slice) else int(rows[bad])
        raise ValueError(
            f"{name} must be finite in {block.dtype.name}; found NaN or infinity in row {row}; leave out failed rows"
        )
    return unit(block, largest) if metric == "cosine" else block


def unit(block: NDArray[Any], largest: NDArray[Any] | None = None) -> NDArray[Any]:
    """Scales the rows of a block in place to unit length; a zero row stays zero.

    Dividing by the largest magnitude first keeps squares from overflowing or vanishing.
    """
    if largest is None:
        largest = np.maximum(block.max(1), -block.min(1))
    block /= np.where(largest > 0, largest, 1)[:, None]
    norms = np.sqrt(np.einsum("ij,ij->i", block, block))
    block /= np.where(norms > 0, norms, 1)[:, None]
    return block


def row_blocks(
    features: NDArray[Any], metric: Metric = "inner_product", name: str = "features"
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Each block of rows once, in order: where it stands, and its rows as `rows_of` makes them."""
    step = max(1, BLOCK_VALUES // features.shape[1])
    for start in range(0, len(features), step):
        where = slice(start, min(start + step, len(features)))
        yield where, rows_of(features, where, metric, name)
