"""Compressed chunks and how they become rows again. See FORMAT.md, "Packed files".

A chunk reaches the decompressor only after its checksum, and HDF5 never: no metadata of a packed file is parsed here.
Needs Zstandard, which Python has from 3.14 on, and hdf5plugin to write.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checksum
from featurebank.store._table import OutputEntry
from featurebank.store._values import ChunkedValues
from featurebank.store.errors import CorruptError, InvalidInputError
from featurebank.store.requirements import advice

LEVEL = 3
_SHUFFLE, _ZSTD = 2, 32015
_ZSTD_MAGIC = 0xFD2FB528
_LEAST_WINDOW = 1024


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
        raise InvalidInputError(f"packing a feature set {advice('hdf5plugin')}") from error
    return {
        "dtype": entry.values.dtype,
        "chunks": (entry.packed_rows, *entry.values.shape[1:]),
        "shuffle": True,
        **hdf5plugin.Zstd(clevel=LEVEL),
    }


class PackedValues(ChunkedValues):
    """The values of a packed output; every read decompresses the chunks that hold the rows.

    Args:
        path: Of the file, for errors.
        read: The bytes at an address: address and number.
        entry: Of the output.
        index: (chunks, 3) address, bytes and checksum of each.

    Raises:
        InvalidInputError: this Python has no Zstandard.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[int, int], NDArray[np.uint8]],
        entry: OutputEntry,
        index: NDArray[np.uint64],
    ) -> None:
        super().__init__(path, entry, entry.packed_rows)
        self._read = read
        self._index = index
        # The byte shuffle has the first bytes of all values, then their second bytes, and so on.
        self._planes = (self.dtype.itemsize, entry.packed_rows, math.prod(self.row_shape))
        self._decompressor = _zstandard().ZstdDecompressor

    def _chunks(self, numbers: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        return map(self._chunk, numbers)

    def _chunk(self, chunk: int) -> NDArray[np.uint8]:
        address, nbytes, expected = self._index[chunk].tolist()
        data = self._read(address, nbytes)
        if checksum(data) != expected:
            raise self._damaged(chunk, "must have its recorded checksum")
        whole = math.prod(self._planes)
        size, window = _frame(data[:18].tobytes())
        if size != whole:
            raise self._damaged(chunk, "must say that it holds a whole chunk")
        if window > max(_LEAST_WINDOW, 1 << (whole - 1).bit_length()):
            raise self._damaged(chunk, "must ask for no larger window than its size")
        decompressor = self._decompressor()
        try:
            values = decompressor.decompress(data.data, whole)
        except Exception as error:  # Its own class of error, and those of memory and values.
            raise self._damaged(chunk, f"must decompress ({error})") from error
        if len(values) != whole or not decompressor.eof or decompressor.unused_data:
            raise self._damaged(chunk, "must be one whole frame")
        return np.frombuffer(values, np.uint8).reshape(self._planes).transpose(1, 2, 0)

    def _damaged(self, chunk: int, what: str) -> CorruptError:
        first = chunk * self.chunk_rows
        last = min(first + self.chunk_rows, self.n_rows) - 1
        return CorruptError(
            f"{self.path} is damaged: output {self.entry.name!r}, packed chunk {chunk}, rows {first} to {last}, "
            f"{what}; restore it from a copy or pack it again"
        )


def _zstandard() -> Any:
    """Python's own module, or the same one for older releases."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise InvalidInputError(f"reading packed feature sets {advice('backports.zstd')}")


def _frame(frame: bytes) -> tuple[int, int]:
    """What a Zstandard frame says it decompresses to, and the window that it asks for (RFC 8878, section 3.1.1.1).

    (-1, -1) where it does not say its size.

    >>> _frame(bytes.fromhex("28b52ffd" "60" "0001")), _frame(bytes.fromhex("28b52ffd" "80" "88" "00020000"))
    ((512, 512), (512, 134217728))
    """
    if len(frame) < 6 or int.from_bytes(frame[:4], "little") != _ZSTD_MAGIC:
        return -1, -1
    flag, single, dictionary = frame[4] >> 6, frame[4] >> 5 & 1, frame[4] & 3
    width = (single, 2, 4, 8)[flag]
    start = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    if width == 0 or len(frame) < start + width:
        return -1, -1
    size = int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
    base = 1 << (10 + (frame[5] >> 3))
    return size, size if single else base + base // 8 * (frame[5] & 7)
