"""Compressed chunks and how they become rows again. See FORMAT.md, "Packed files".

A chunk reaches the decompressor only after its checksum, and through a file that exists in memory alone: no metadata of
a packed file is ever parsed by HDF5 here. Needs h5py and hdf5plugin.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checksum
from featurebank.store._disk import Readable
from featurebank.store._table import OutputEntry
from featurebank.store.errors import CorruptError, InvalidInputError

__all__ = ["PackedValues", "packed_filters", "packed_settings"]

LEVEL = 3
_SHUFFLE, _ZSTD = 2, 32015
_ZSTD_MAGIC = 0xFD2FB528


def packed_filters(itemsize: int) -> list[list[Any]]:
    """The filters of a packed output: HDF5's byte shuffle, then Zstandard."""
    return [[_SHUFFLE, [itemsize]], [_ZSTD, [LEVEL]]]


def packed_settings(entry: OutputEntry) -> dict[str, Any]:
    """How h5py creates a packed output.

    Raises:
        InvalidInputError: hdf5plugin is not installed.
    """
    try:
        import hdf5plugin
    except ImportError as error:
        raise InvalidInputError("packed feature sets need the package hdf5plugin; install it") from error
    return {
        "dtype": entry.values.dtype,
        "chunks": (entry.packed_rows, *entry.values.shape[1:]),
        "shuffle": True,
        **hdf5plugin.Zstd(clevel=LEVEL),
    }


class PackedValues:
    """The values of a packed output; every read decompresses the chunks that hold the rows."""

    def __init__(self, disk: Readable, entry: OutputEntry, index: NDArray[np.uint64]) -> None:
        self._disk = disk
        self._entry = entry
        self._index = index
        self._scratch: Any = None
        self._guard = threading.Lock()
        self._shape = (entry.packed_rows, *entry.values.shape[1:])
        self._dtype = np.dtype(entry.values.dtype)

    def view(self) -> NDArray[Any]:
        """All rows, decompressed anew each time."""
        rows = self.fresh()
        rows.flags.writeable = False
        return rows

    def fresh(self) -> NDArray[Any]:
        """All rows."""
        return self.part(slice(None))

    def take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows: each chunk that holds one of them is decompressed once."""
        n_rows = self._entry.values.shape[0]
        rows = np.asarray(rows)
        if rows.size and not -n_rows <= rows.min() <= rows.max() < n_rows:
            raise IndexError(f"rows must lie within {-n_rows} to {n_rows - 1}; found {rows.min()} to {rows.max()}")
        flat = rows.reshape(-1).astype(np.intp) % n_rows
        taken = np.empty((len(flat), *self._shape[1:]), self._dtype)
        order = np.argsort(flat, kind="stable")
        chunks = flat[order] // self._entry.packed_rows
        firsts = np.flatnonzero(np.diff(chunks, prepend=-1))
        for places in np.split(order, firsts[1:]):
            if len(places):
                chunk = int(flat[places[0]]) // self._entry.packed_rows
                taken[places] = self._chunk(chunk)[flat[places] - chunk * self._entry.packed_rows]
        return taken.reshape(*rows.shape, *self._shape[1:])

    def part(self, rows: slice) -> NDArray[Any]:
        """A slice of rows."""
        chosen = range(self._entry.values.shape[0])[rows]
        if chosen.step != 1:
            return self.take(np.array(chosen, np.intp))
        taken = np.empty((len(chosen), *self._shape[1:]), self._dtype)
        for start, values in self._covering(chosen):
            first, last = max(start, chosen.start), min(start + len(values), chosen.stop)
            taken[first - chosen.start : last - chosen.start] = values[first - start : last - start]
        return taken

    def _covering(self, rows: range) -> Iterator[tuple[int, NDArray[Any]]]:
        size = self._entry.packed_rows
        if rows:
            for chunk in range(rows.start // size, (rows.stop - 1) // size + 1):
                yield chunk * size, self._chunk(chunk)

    def _chunk(self, chunk: int) -> NDArray[Any]:
        address, nbytes, expected = self._index[chunk].tolist()
        data = self._disk.read(address, nbytes)
        if checksum(data) != expected:
            raise self._damaged(chunk, "must have its recorded checksum")
        # HDF5 takes the decompressor at its word about the size.
        if _content_size(data[:16].tobytes()) != math.prod(self._shape) * self._dtype.itemsize:
            raise self._damaged(chunk, "must say that it holds a whole chunk")
        from h5py import h5s  # type: ignore[import-untyped]

        values = np.empty(self._shape, self._dtype)
        with self._guard:
            if self._scratch is None:
                self._scratch = _scratch(self._entry, self._shape)
            try:
                self._scratch.write_direct_chunk((0,) * len(self._shape), data.tobytes())
                self._scratch.read(h5s.ALL, h5s.ALL, values)
            except (OSError, RuntimeError) as error:
                raise self._damaged(chunk, f"must decompress ({error})") from error
        return values

    def _damaged(self, chunk: int, what: str) -> CorruptError:
        first = chunk * self._entry.packed_rows
        last = min(first + self._entry.packed_rows, self._entry.values.shape[0]) - 1
        return CorruptError(
            f"{self._disk.path} is damaged: output {self._entry.name!r}, packed chunk {chunk}, rows {first} to {last}, "
            f"{what}; restore it from a copy or pack it again"
        )


def _scratch(entry: OutputEntry, shape: tuple[int, ...]) -> Any:
    import h5py

    settings = packed_settings(entry)
    file = h5py.File(secrets.token_hex(8), "w", driver="core", backing_store=False)
    # Its low-level face: the other spends longer on the selection than Zstandard on a chunk.
    return file.create_dataset("chunk", shape, **settings).id


def _content_size(frame: bytes) -> int:
    """The size that a Zstandard frame says it decompresses to; -1 where it says none (RFC 8878, section 3.1.1.1).

    >>> _content_size(bytes.fromhex("28b52ffd" "60" "0001"))
    512
    """
    if len(frame) < 5 or int.from_bytes(frame[:4], "little") != _ZSTD_MAGIC:
        return -1
    flag, single, dictionary = frame[4] >> 6, frame[4] >> 5 & 1, frame[4] & 3
    width = (single, 2, 4, 8)[flag]
    start = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    if width == 0 or len(frame) < start + width:
        return -1
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
