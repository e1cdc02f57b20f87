"""The rows of linear problems: centred and scaled, in memory where they fit and streamed where they do not.

A GPU is sent each row once where it has room for all of them, prepared or in the dtype that they come in.

Shapes: N rows, D features, n rows of a block.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.probes._rows import BLOCK_VALUES, row_blocks, row_deviation, row_mean, row_slices
from featurebank.retrieval._room import as_they_come, held_on

FEW = 4096  # rows that tell enough of the second moments


class Design:
    """Rows (x - shift) * scale, without changing what they were made from.

    Args:
        features: (N, D) float16, float32 or float64, a memory map included.
        weights: (N,) float64, of the rows in mean and variance.
        centre: whether the weighted mean is taken off. Only for problems with an unpenalised intercept, whose
            solution it leaves alone.
        standardize: whether features are divided by their standard deviation; constant ones are left as they are.
        dtype: torch.float32 or torch.float64.
        device: where the arithmetic happens.
        memory: bytes that the rows may take; beyond it they are streamed.

    Attributes:
        n_bytes: that all rows would take in memory.
        rows: (N, D) where they are in memory.
        rows_low: the same in low precision: bfloat16 for float32, else as they are.
        few: (n, D), evenly spaced ones, in low precision.

    Raises:
        ValueError: a value that is not finite.
    """

    def __init__(
        self,
        features: NDArray[Any],
        weights: NDArray[np.float64],
        *,
        centre: bool,
        standardize: bool,
        dtype: torch.dtype,
        device: torch.device,
        memory: int,
    ) -> None:
        self.features = features
        self.n_rows, self.n_features = features.shape
        self.dtype, self.device = dtype, device
        self.low = torch.bfloat16 if dtype == torch.float32 else dtype
        self._numpy = np.dtype(str(dtype).removeprefix("torch."))
        mean, variance = _moments(features, weights, self._numpy)
        self.shift: NDArray[np.float64] = mean if centre else np.zeros_like(mean)
        self.scale: NDArray[np.float64] = np.ones_like(mean)
        if standardize:
            varies = variance > (np.finfo(self._numpy).eps * np.abs(mean)) ** 2
            self.scale[varies] = 1 / np.sqrt(variance[varies])
        self._shift = torch.from_numpy(self.shift).to(device, dtype)
        self._scale = torch.from_numpy(self.scale).to(device, dtype)
        bytes_per_value = dtype.itemsize + (self.low.itemsize if self.low != dtype else 0)
        self.memory = memory
        self._held: torch.Tensor | None = None
        self.n_bytes = self.n_rows * self.n_features * bytes_per_value
        self.in_memory = self.n_bytes <= memory
        step = max(1, self.n_rows // max(FEW, 4 * self.n_features))
        if self.in_memory:
            self.rows = torch.cat([block for _, block in self._read(1 << 14)])
            self.rows_low = self.rows.to(self.low)
            self.few = self.rows_low[::step]
        else:
            self._held = held_on(device, features, memory=memory)
            self.memory -= 0 if self._held is None else self._held.nbytes
            self.few = self._prepared(self._stored(slice(None, None, step))).to(self.low)

    def thinned(self, step: int) -> Design:
        """Every ``step``-th row, in memory, centred and scaled as all rows are."""
        part = copy.copy(self)
        part.features = self.features[::step]
        part._held = None if self._held is None else self._held[::step]
        part.n_rows, part.in_memory = len(part.features), True
        part.rows = self.rows[::step] if self.in_memory else torch.cat([block for _, block in part._read(1 << 14)])
        part.rows_low = part.rows.to(self.low)
        return part

    def rounded(self, V: torch.Tensor) -> torch.Tensor:
        """V (J, K, D + 1) with its first D columns representable in low precision."""
        if self.low != self.dtype:
            V[..., :-1] = V[..., :-1].to(self.low)
        return V

    def blocks(self, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Each block of at most ``size`` prepared rows (n, D) once, in order."""
        if not self.in_memory:
            yield from self._read(size)
            return
        for start in range(0, self.n_rows, size):
            where = slice(start, min(start + size, self.n_rows))
            yield where, self.rows[where]

    def _read(self, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
        # Values were found finite when the moments were taken.
        for where in row_slices(*self.features.shape, values=BLOCK_VALUES, rows=size):
            yield where, self._prepared(self._stored(where))

    def _stored(self, where: slice) -> torch.Tensor:
        """Rows on the device; on a GPU in the dtype that they come in, on a CPU cast while they are copied."""
        if self._held is not None:
            return self._held[where]
        if self.device.type == "cpu":
            return torch.from_numpy(np.array(self.features[where], dtype=self._numpy, order="C"))
        return as_they_come(self.features, where).to(self.device)

    def _prepared(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(self.dtype, copy=self._held is not None).sub_(self._shift).mul_(self._scale)


class Standardised:
    """Rows (x - mean) / scale (N, D) in blocks, by the mean and deviation of all rows in float64.

    The features are read for every pass; a GPU that has room for them holds them, in the dtype that they come in.

    Attributes:
        mean: (D,) float64.
        scale: (D,) float64; ones where features are not to be standardised.
    """

    def __init__(self, features: NDArray[Any], device: str = "cpu", *, standardize: bool) -> None:
        self.features, self.device = features, device
        self._held = held_on(torch.device(device), features)
        mean = row_mean(features)
        scale = row_deviation(features, mean) if standardize else np.ones_like(mean)
        self.mean, self.scale = (torch.from_numpy(part).to(device) for part in (mean, scale))

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """Each block once, in order: where it stands, and its rows (n, D)."""
        mean, scale = self.mean.to(dtype), self.scale.to(dtype)
        for rows in row_slices(*self.features.shape, values=BLOCK_VALUES):
            held = self._held
            block = as_they_come(self.features, rows).to(self.device) if held is None else held[rows]
            yield rows, block.to(dtype, copy=True).sub_(mean).div_(scale)


def _moments(
    features: NDArray[Any], weights: NDArray[np.float64], dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean and variance (D,) in one pass, about a provisional mean so that large offsets cost no digits."""
    d = features.shape[1]
    total, first, second = 0.0, np.zeros(d), np.zeros(d)
    about: NDArray[Any] | None = None
    for where, block in row_blocks(features, dtype):
        if about is None:
            about = block.mean(0)
        w, offsets = weights[where].astype(dtype), block - about
        first += w @ offsets
        second += w @ np.square(offsets)
        total += float(w.sum())
    assert about is not None  # noqa: S101 - features have rows
    offset = first / total
    return about + offset, np.maximum(second / total - offset**2, 0)
