"""A split that ends the process that reads a certain record, for as long as its fuse lies there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets.contract import Split

__all__ = ["DeadlySplit", "RaisingSplit"]


class DeadlySplit:
    """Another split, but for that.

    Args:
        split: what it has.
        row: the deadly record.
        fuse: a file.
    """

    def __init__(self, split: Split, row: int, fuse: Path) -> None:
        self.spec, self.ids, self.labels = split.spec, split.ids, split.labels
        self.class_names, self.columns, self.notes = split.class_names, split.columns, split.notes
        self._split, self._row, self._fuse = split, row, fuse

    def __len__(self) -> int:
        return len(self._split)

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """See `Split`."""
        if index == self._row and self._fuse.exists():
            os._exit(1)
        return self._split.read(index)

    def content_hashes(self) -> NDArray[np.uint8]:
        """See `Split`."""
        return self._split.content_hashes()


class RaisingSplit(DeadlySplit):
    """Raises instead, at a record when it is read, or for no record at all when the contents are hashed."""

    def __init__(self, split: Split, row: int | None, error: Exception) -> None:
        super().__init__(split, -1 if row is None else row, Path())
        self._error = error

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """See `Split`."""
        if index == self._row:
            raise self._error
        return self._split.read(index)

    def content_hashes(self) -> NDArray[np.uint8]:
        """See `Split`."""
        if self._row == -1:
            raise self._error
        return self._split.content_hashes()
