"""Quantiles of training features in flat memory: of all values, and of each feature.

Shapes: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.probes._rows import check_finite, row_blocks

HALF = 1 << 16
ROWS = 2048
GROUP_VALUES, GROUPS = 2**24, 8  # of features that are sorted at once: 64 MiB, and passes over the rows


def exact_quantiles(features: NDArray[Any], levels: Sequence[float]) -> NDArray[np.float64]:
    """Quantiles over all N x D values, as ``np.quantile`` of the float32 values interpolates them, in flat memory.

    Not from a sample: a first pass counts the upper halves of the values' bits, a second one the lower halves where a
    quantile falls.

    >>> exact_quantiles(np.arange(12.0).reshape(4, 3), [0.5, 0.9])
    array([5.5, 9.9])

    Args:
        features: (N, D).
        levels: each in [0, 1].
    """
    positions = np.asarray(levels, np.float64) * (features.size - 1)
    ranks = np.unique(np.concatenate([np.floor(positions), np.ceil(positions)]).astype(np.int64))
    upper = np.zeros(HALF, np.int64)
    for keys in _keys(features):
        upper += np.bincount(keys.view(np.uint16)[1::2], minlength=HALF)
    before = upper.cumsum() - upper
    bins = before.searchsorted(ranks, "right") - 1
    lower = {int(b): np.zeros(HALF, np.int64) for b in bins}
    for keys in _keys(features):
        halves = keys.view(np.uint16)
        for b in lower:
            lower[b] += np.bincount(halves[::2][halves[1::2] == b], minlength=HALF)
    lows = [lower[int(b)].cumsum().searchsorted(rank - before[b], "right") for b, rank in zip(bins, ranks, strict=True)]
    keys = (bins.astype(np.uint32) << np.uint32(16)) | np.array(lows, np.uint32)
    return np.interp(positions, ranks, _value_of(keys.astype(np.uint32)).astype(np.float64))


def feature_quantiles(features: NDArray[Any], levels: Sequence[float]) -> NDArray[np.float64]:
    """Quantiles of each feature, (levels, D), as ``np.quantile`` of the float32 values interpolates them.

    Exact, from groups of features, up to 2^27 values (65,536 rows of 2,048 features, 104,857 of 1,280). Beyond that
    from as many evenly spaced rows as make at most 2^27 values: every s-th, s = ceil(N D / 2^27).

    >>> feature_quantiles(np.arange(10.0).reshape(5, 2), [0.5])
    array([[4., 5.]])

    Args:
        features: (N, D).
        levels: each in [0, 1].
    """
    check_finite(features)
    rows = features[:: -(-features.size // (GROUP_VALUES * GROUPS))]
    width = features.shape[1]
    together = max(1, min(width, GROUP_VALUES // len(rows)))
    quantiles = np.empty((len(levels), width))
    for start in range(0, width, together):
        group = np.empty((min(together, width - start), len(rows)), np.float32)
        for where, block in row_blocks(rows[:, start : start + together], np.float32, rows=ROWS):
            group[:, where] = block.T
        quantiles[:, start : start + together] = np.quantile(group, levels, axis=1, overwrite_input=True)
    return quantiles


def _keys(features: NDArray[Any]) -> Iterator[NDArray[np.uint32]]:
    """The float32 values of each block as unsigned integers in the same order."""
    for _, block in row_blocks(features, np.float32, rows=ROWS):
        bits = (block.ravel() + np.float32(0)).view(np.uint32)  # minus zero becomes zero
        yield bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))


def _value_of(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    return (keys ^ np.where(keys >> 31, np.uint32(0x80000000), np.uint32(0xFFFFFFFF))).view(np.float32)
