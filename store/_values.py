"""The values of one output as a reader gets them: straight from the mapping, or out of compressed chunks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checksum, damage
from featurebank.store._disk import Disk
from featurebank.store._table import Array, OutputEntry

__all__ = ["MappedValues", "Values", "view_of"]

_CACHE_LINE = 64


class Values(Protocol):
    """What a feature set needs of an output."""

    def view(self) -> NDArray[Any]:
        """All rows, read-only."""

    def fresh(self) -> NDArray[Any]:
        """All rows in an array of their own."""

    def take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows in an array of their own; negative numbers count from the end."""

    def part(self, rows: slice) -> NDArray[Any]:
        """A slice of rows in an array of their own."""


class MappedValues:
    """The values of a sealed file: a view of its mapping.

    With ``checked`` each chunk is hashed before its values are first handed out.
    """

    def __init__(self, disk: Disk, entry: OutputEntry, mapping: NDArray[np.uint8], *, checked: bool) -> None:
        self._disk = disk
        self._entry = entry
        self._mapping = mapping
        self._untouched = np.full(entry.n_chunks, checked)
        self._checked = not checked

    def view(self) -> NDArray[Any]:
        """All rows, with no copy made."""
        self._touch()
        return view_of(self._mapping, self._entry.values)

    def fresh(self) -> NDArray[Any]:
        """All rows, read at the disk's speed."""
        self._touch()
        loaded = _empty(self._entry.values)
        self._disk.read_into(loaded, self._entry.values.address)
        return loaded

    def take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows."""
        # take gathers whole rows half as fast again as indexing does.
        taken = view_of(self._mapping, self._entry.values).take(rows, axis=0)
        self._touch(rows)
        return taken

    def part(self, rows: slice) -> NDArray[Any]:
        """A slice of rows."""
        if not self._checked:
            chosen = range(self._entry.values.shape[0])[rows]
            self._touch(np.arange(chosen.start, chosen.stop, chosen.step))
        return np.array(view_of(self._mapping, self._entry.values)[rows])

    def _touch(self, rows: NDArray[Any] | None = None) -> None:
        if self._checked:
            return
        entry, mapped = self._entry, self._mapping
        n_rows, start, stride = entry.values.shape[0], entry.values.address, entry.chunk_stride
        chunks = np.arange(entry.n_chunks) if rows is None else np.unique(rows % n_rows // entry.chunk_rows)
        expected = view_of(mapped, entry.checksums)
        damaged = []
        for index in chunks[self._untouched[chunks]].tolist():
            if checksum(mapped[start + index * stride : start + (index + 1) * stride]) == expected[index]:
                self._untouched[index] = False
            else:
                damaged.append(index)
        if damaged:
            raise damage(self._disk.path, entry, damaged)
        self._checked = not self._untouched.any()


def view_of(mapping: NDArray[np.uint8], array: Array) -> NDArray[Any]:
    """An array of a file as a view of the file's bytes."""
    return mapping[array.address : array.end].view(array.dtype).reshape(array.shape)


def _empty(array: Array) -> NDArray[Any]:
    # On a cache line: the kernel copies into memory 16 bytes beside one, as malloc gives it, a third slower.
    spare = np.empty(array.nbytes + _CACHE_LINE, np.uint8)
    start = -spare.ctypes.data % _CACHE_LINE
    return spare[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
