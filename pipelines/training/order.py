"""The order in which an epoch sees its rows, as a function of the seed and the epoch.

Shapes: N rows, B rows of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.training.draws import seed_of

__all__ = ["Repeats", "order", "windows"]


def order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """(N,) the rows 0 … N - 1 in the order of an epoch.

    >>> order(0, 0, 5).tolist(), order(0, 1, 5).tolist()
    ([1, 0, 2, 4, 3], [1, 3, 4, 0, 2])
    """
    return np.random.default_rng(seed_of(seed, "order", epoch)).permutation(n)


@dataclass(frozen=True, eq=False)
class Repeats:
    """Rows that an epoch sees more than once, or never less than that: each as often as its factor says on the average.

    Rows lie on a line on which each takes up its factor, and places at even distances from a start that each epoch
    draws: a row comes as often as its factor, rounded down or up.

    Attributes:
        factors: (N,) 1 or more.
    """

    factors: NDArray[np.float64]

    def __len__(self) -> int:
        """The places of an epoch: the factors' sum, rounded up."""
        return int(np.ceil(self.factors.sum()))

    def row(self, seed: int, epoch: int, place: int) -> int:
        """The row at a place of an epoch.

        >>> repeats = Repeats(np.array([1.0, 2.5, 1.5]))
        >>> [[repeats.row(0, epoch, place) for place in range(len(repeats))] for epoch in (1, 2)]
        [[0, 1, 1, 2, 2], [0, 1, 1, 1, 2]]
        """
        start = seed_of(seed, "repeat", epoch) / 2**64
        return min(int(np.searchsorted(self._ends, place + start, side="right")), len(self.factors) - 1)

    @cached_property
    def _ends(self) -> NDArray[np.float64]:
        ends = np.cumsum(self.factors)
        return np.asarray(ends * (len(self) / ends[-1]))


def windows(seed: int, epoch: int, n: int, batch_size: int, *, even: bool = False) -> list[NDArray[np.int64]]:
    """The rows of each update of an epoch, (B,) int64; the last window has what is left.

    Args:
        seed: of the run.
        epoch: counted from 0.
        n: how many rows there are.
        batch_size: B, rows of an update.
        even: whether every window must have an even number of rows, for mixing in pairs. Then the last row of an odd
            last window is left out: another one each epoch.

    Raises:
        ValueError: there are no rows, or too few or an odd number of them for windows that must be even.

    >>> [len(window) for window in windows(0, 0, 11, 4)], [len(window) for window in windows(0, 0, 11, 4, even=True)]
    ([4, 4, 3], [4, 4, 2])
    """
    least = 2 if even else 1
    if n < least or batch_size < least or (even and batch_size % 2):
        raise ValueError(
            f"n and batch_size must be at least {least}{' and batch_size even, for mixing' if even else ''}; "
            f"found n {n} and batch_size {batch_size}: give more rows, or another batch_size"
        )
    rows = order(seed, epoch, n)
    rows = rows[: n - n % 2] if even else rows
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
