"""Features as the probes read them: checked, then passed over in blocks of rows, never copied whole.

Shapes: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featurebank.retrieval._features import as_features

BLOCK_VALUES = 2**24  # 128 MiB of float64
SLICE_VALUES = 2**20


def training_data(estimator: object, X: ArrayLike, y: ArrayLike, **checks: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features (N, D) and labels through scikit-learn's checks; sets the estimator's ``n_features_in_``.

    Whether the features are finite is left to the first pass over the rows.
    """
    from sklearn.utils.validation import validate_data  # type: ignore[import-untyped]

    features, labels = validate_data(estimator, X, y, dtype="numeric", ensure_all_finite=False, **checks)
    return as_features(features), labels


def query_data(estimator: object, X: ArrayLike) -> NDArray[Any]:
    """Features (M, D) for a fitted estimator, of the width that it was fitted on; finiteness is left as above."""
    from sklearn.utils.validation import check_is_fitted, validate_data

    check_is_fitted(estimator)
    return as_features(validate_data(estimator, X, reset=False, dtype="numeric", ensure_all_finite=False))


def row_slices(n_rows: int, width: int, *, values: int | None = None, rows: int | None = None) -> Iterator[slice]:
    """Slices that cover rows of ``width`` values, in order.

    Args:
        n_rows: in all.
        width: values of a row.
        values: of a slice at most, unless a single row has more; `SLICE_VALUES` if None.
        rows: of a slice at most.

    >>> list(row_slices(5, 10, values=25))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, (SLICE_VALUES if values is None else values) // max(1, width))
    step = step if rows is None else min(rows, step)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def row_blocks(
    features: NDArray[Any], dtype: DTypeLike, *, rows: int | None = None, name: str = "features"
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Each block of rows once, in order: where it stands, and a fresh, contiguous copy in another dtype.

    Args:
        features: (N, D).
        dtype: of the blocks.
        rows: per block at most; never more than make `BLOCK_VALUES` values.
        name: what the error calls the features.

    Raises:
        ValueError: a value that is not finite in that dtype.
    """
    for where in row_slices(*features.shape, values=BLOCK_VALUES, rows=rows):
        with np.errstate(over="ignore"):
            block = np.array(features[where], dtype=dtype, order="C")
        check_block(block, name, where.start)
        yield where, block


def check_block(block: NDArray[Any], name: str, first: int) -> None:
    """Raises ValueError at the first value of a block that is not finite; ``first`` is its first row's number."""
    finite = np.isfinite(block)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{name} must be finite in {block.dtype.name}; found NaN or infinity (inf) in row {first + row}, "
            f"column {column}; leave out failed rows"
        )


def check_finite(features: NDArray[Any], dtype: DTypeLike = np.float32) -> None:
    """Passes over all rows and raises ValueError at the first value that is not finite in the dtype."""
    for _ in row_blocks(features, dtype):
        pass


def row_mean(features: NDArray[Any]) -> NDArray[np.float64]:
    """The mean row (D,), accumulated in float64."""
    total = np.zeros(features.shape[1])
    for _, block in row_blocks(features, np.float64):
        total += block.sum(0)
    return total / len(features)


def row_deviation(features: NDArray[Any], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard deviation (D,) about the mean row, accumulated in float64; 1 for a column that does not vary."""
    total = np.zeros(features.shape[1])
    for _, block in row_blocks(features, np.float64):
        total += np.square(block - mean).sum(0)
    deviation: NDArray[np.float64] = np.sqrt(total / len(features))
    return np.where(deviation > np.finfo(np.float64).eps * np.abs(mean), deviation, 1.0)
