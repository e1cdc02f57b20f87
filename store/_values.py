"""The values of one output as rows: from the mapping of a file, or out of chunks that come one by one."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checksum, damage
from featurebank.store._disk import Disk
from featurebank.store._table import Array, OutputEntry

_CACHE_LINE = 64


class Values(ABC):
    """The values (N, …) of one output; whatever is handed out is fresh, but for what `view` says."""

    def __init__(self, path: Path, entry: OutputEntry) -> None:
        self.path = path
        self.entry = entry
        self.n_rows, self.row_shape = entry.values.shape[0], entry.values.shape[1:]
        self.row_bytes = entry.chunk_stride // entry.chunk_rows

    def view(self) -> NDArray[Any]:
        """All rows, read-only; fetched anew each time unless the file is mapped."""
        rows = self.fresh()
        rows.flags.writeable = False
        return rows

    def fresh(self) -> NDArray[Any]:
        """All rows."""
        return self.part(slice(None))

    def take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows; negative numbers count from the end.

        Raises:
            IndexError: there is no such row.
        """
        if rows.size and not -self.n_rows <= rows.min() <= rows.max() < self.n_rows:
            raise IndexError(
                f"rows must lie within {-self.n_rows} to {self.n_rows - 1}; found {rows.min()} to {rows.max()}"
            )
        flat = rows.reshape(-1).astype(np.intp, casting="same_kind") % self.n_rows
        return self._gathered(flat).reshape(*rows.shape, *self.row_shape)

    def part(self, rows: slice) -> NDArray[Any]:
        """A slice of rows."""
        chosen = range(self.n_rows)[rows]
        if chosen.step != 1 or not chosen:
            return self.take(np.array(chosen, np.intp))
        return self._stretch(chosen.start, chosen.stop).reshape(len(chosen), *self.row_shape)

    @abstractmethod
    def _gathered(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Rows 0 to N - 1 in any order, each with its values in any shape."""

    @abstractmethod
    def _stretch(self, start: int, stop: int) -> NDArray[Any]:
        """Consecutive rows, at least one."""


class MappedValues(Values):
    """The values of a sealed file: a view of its mapping.

    With ``checked`` each chunk is hashed before its values are first handed out.
    """

    def __init__(self, disk: Disk, entry: OutputEntry, mapping: NDArray[np.uint8], *, checked: bool) -> None:
        super().__init__(disk.path, entry)
        self._disk = disk
        self._mapping = mapping
        self._rows = view_of(mapping, entry.values)
        self._to_hash = np.full(entry.n_chunks, checked)
        self._sound = not checked

    def view(self) -> NDArray[Any]:
        """All rows, with no copy made."""
        self._check(0, self.n_rows)
        return self._rows.view()

    def fresh(self) -> NDArray[Any]:
        """All rows, read at the disk's speed."""
        self._check(0, self.n_rows)
        loaded = _empty(self.entry.values)
        self._disk.read_into(loaded, self.entry.values.address)
        return loaded

    def take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows; negative numbers count from the end.

        Raises:
            IndexError: there is no such row.
        """
        # Gathering empties the processor's caches, after which each line of Python costs microseconds: NumPy's own
        # look at the numbers has to do, where nothing is hashed and nothing wrong with them.
        if self._sound:
            with contextlib.suppress(IndexError, TypeError):
                return self._rows.take(rows, axis=0)
        return super().take(rows)

    def _gathered(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        if not self._sound:
            self._check_chunks(np.unique(rows // self.entry.chunk_rows))
        # take gathers whole rows half as fast again as indexing does.
        return self._rows.take(rows, axis=0)

    def _stretch(self, start: int, stop: int) -> NDArray[Any]:
        self._check(start, stop)
        return np.array(self._rows[start:stop])

    def _check(self, start: int, stop: int) -> None:
        if not self._sound:
            self._check_chunks(np.arange(start // self.entry.chunk_rows, -(-stop // self.entry.chunk_rows)))

    def _check_chunks(self, chunks: NDArray[np.intp]) -> None:
        start, stride = self.entry.values.address, self.entry.chunk_stride
        expected = view_of(self._mapping, self.entry.checksums)
        damaged = []
        for index in chunks[self._to_hash[chunks]].tolist():
            if checksum(self._mapping[start + index * stride : start + (index + 1) * stride]) == expected[index]:
                self._to_hash[index] = False
            else:
                damaged.append(index)
        if damaged:
            raise damage(self.path, self.entry, damaged)
        self._sound = not self._to_hash.any()


class ChunkedValues(Values):
    """Values that come in whole chunks, each fetched once for all the rows of it that are asked for.

    Args:
        path: Of the file, for errors.
        entry: Of the output.
        chunk_rows: Rows of each chunk.
    """

    def __init__(self, path: Path, entry: OutputEntry, chunk_rows: int) -> None:
        super().__init__(path, entry)
        self.chunk_rows = chunk_rows
        self.dtype = np.dtype(entry.values.dtype)

    @abstractmethod
    def _chunks(self, numbers: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """The bytes of these chunks, in their order: (rows, values a row, bytes of a value).

        Raises:
            CorruptError: one is damaged.
        """

    def _gathered(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        taken, places = self._empty(len(rows))
        order = np.argsort(rows, kind="stable")
        chunks, within = np.divmod(rows[order], self.chunk_rows)
        firsts = np.flatnonzero(np.diff(chunks, prepend=-1)).tolist()
        runs = itertools.pairwise([*firsts, len(rows)])
        for (first, last), chunk in zip(runs, self._chunks(chunks[firsts].tolist()), strict=True):
            places[order[first:last]] = chunk[within[first:last]]
        return taken

    def _stretch(self, start: int, stop: int) -> NDArray[Any]:
        taken, places = self._empty(stop - start)
        size = self.chunk_rows
        numbers = range(start // size, -(-stop // size))
        for number, chunk in zip(numbers, self._chunks(numbers), strict=True):
            first, last = max(number * size, start), min((number + 1) * size, stop)
            places[first - start : last - start] = chunk[first - number * size : last - number * size]
        return taken

    def _empty(self, n: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """(n, values a row), and the same memory as (n, values a row, bytes of a value)."""
        taken = np.empty((n, self.row_bytes // self.dtype.itemsize), self.dtype)
        return taken, taken.view(np.uint8).reshape(*taken.shape, self.dtype.itemsize)


def view_of(mapping: NDArray[np.uint8], array: Array) -> NDArray[Any]:
    """An array of a file as a view of the file's bytes."""
    return mapping[array.address : array.end].view(array.dtype).reshape(array.shape)


def _empty(array: Array) -> NDArray[Any]:
    # On a cache line: the kernel copies into memory 16 bytes beside one, as malloc gives it, a third slower.
    spare = np.empty(array.nbytes + _CACHE_LINE, np.uint8)
    start = -spare.ctypes.data % _CACHE_LINE
    return spare[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
