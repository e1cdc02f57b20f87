"""Verification: every byte is hashed again, and only then is the HDF5 metadata compared with the header.

The comparison is whole: an object, link, attribute, filter or address that the header does not have is refused, so a
file that verifies holds no external link or storage and no virtual dataset.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checksum, damage
from featurebank.store._disk import Readable, pieces, reading
from featurebank.store._hdf5 import chunk_digest, described
from featurebank.store._header import Header, array_digest
from featurebank.store._opening import open_sealed
from featurebank.store._packed import PackedValues, packed_filters
from featurebank.store._records import first_few
from featurebank.store._table import Array, OutputEntry
from featurebank.store.addresses import Url
from featurebank.store.errors import (
    CorruptError,
    FormatVersionError,
    InvalidInputError,
    NotFoundError,
    StorageError,
    StoreError,
    TooLargeError,
    UncheckedError,
    damaged,
)

__all__ = ["VerifyReport", "check_arrays", "reported", "verify", "verify_copy", "was_checked"]

# A newer release's file, and one that needs a package which is not there, say nothing of damage either.
_UNCHECKED = (FormatVersionError, InvalidInputError, NotFoundError, StorageError, TooLargeError, UncheckedError)


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was verified of one file.

    Attributes:
        path: The file.
        fingerprint: Of its key; empty if the header cannot be read.
        n_rows: Its rows.
        n_failed: Its rows without features.
        chunks: The chunks of each output.
        nbytes: The bytes hashed: the whole file.
        error: What is wrong; empty if nothing is. Only `FeatureStore.verify` reports errors, a single file raises.
        checked: Whether the file could be checked: False where reading it failed, or memory or time ran out.
    """

    path: Path
    fingerprint: str = ""
    n_rows: int = 0
    n_failed: int = 0
    chunks: dict[str, int] = field(default_factory=dict)
    nbytes: int = 0
    error: str = ""
    checked: bool = True

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.error

    @property
    def result(self) -> Literal["as sealed", "damaged", "could not be checked"]:
        """The answer in words."""
        if self.ok:
            return "as sealed"
        return "damaged" if self.checked else "could not be checked"


def verify(path: Path, within: Path | None = None) -> VerifyReport:
    """Verifies a sealed file; reads it with plain reads, never through a mapping.

    Args:
        path: The file.
        within: The store's folder that it must lie in, if any.

    Raises:
        CorruptError: the first damage, in the order header, records, outputs, HDF5 metadata; for outputs every
            damaged chunk of the output is named.
        UncheckedError: HDF5's metadata could not be checked.
        StoreError: as for opening it.
    """
    with reading(path):
        return _verify(path, within)


def reported(path: Path, fingerprint: str = "", within: Path | None = None) -> VerifyReport:
    """What verifying a file gives, as a report whatever happens."""
    try:
        return verify(path, within)
    except StoreError as error:
        return VerifyReport(path=path, fingerprint=fingerprint, error=str(error), checked=was_checked(error))


def was_checked(error: StoreError) -> bool:
    """Whether an error says what is wrong with a file, rather than why nothing is known of it."""
    return not isinstance(error, _UNCHECKED)


def _verify(path: Path, within: Path | None) -> VerifyReport:
    disk, header, _ = open_sealed(path, within)
    table = header.table
    with contextlib.closing(disk):
        n_failed = check_arrays(disk, header)
        _check_hdf5(path, header)
    return VerifyReport(
        path=path,
        fingerprint=table.fingerprint,
        n_rows=table.n_rows,
        n_failed=n_failed,
        chunks={entry.name: entry.n_chunks for entry in table.outputs},
        nbytes=header.file_size,
    )


def verify_copy(copy: Path, source: Path | Url, fingerprint: str) -> None:
    """Verifies a copy that has no name yet.

    Raises:
        CorruptError: it is damaged, or another set than was to be copied; the text names the source, for the copy will
            be gone.
        UncheckedError: it could not be checked.
    """
    try:
        found = verify(copy).fingerprint
    except StoreError as error:
        kind = CorruptError if was_checked(error) else UncheckedError
        raise kind(str(error).replace(str(copy), str(source))) from error
    if found != fingerprint:
        raise damaged(source, "the fingerprint", fingerprint, f"{found}: another file was put in its place")


def check_arrays(disk: Readable, header: Header) -> int:
    """Hashes all that the file digest leaves to others, records and outputs; returns the rows that failed.

    Raises:
        CorruptError: as `verify`.
    """
    table = header.table
    for slot, array in enumerate(table.digested):
        _check_digest(disk, header, slot, array)
    for entry in table.outputs:
        _check_chunks(disk, entry, header.indexes.get(entry.name))
    return _failed(disk, table.records["status"])


def _check_digest(disk: Readable, header: Header, slot: int, array: Array) -> None:
    if (found := array_digest(disk, array)) != header.digest(slot):
        raise damaged(disk.path, f"the digest of {array.path}", header.digest(slot).hex(), found.hex())


def _check_chunks(disk: Readable, entry: OutputEntry, index: NDArray[np.uint64] | None) -> None:
    packed = None if index is None else PackedValues(disk.path, disk.read, entry, index)
    expected = disk.read(entry.checksums.address, entry.checksums.nbytes).view("<u8")
    broken = []
    for number, digest in enumerate(expected):
        if packed is None:
            data = disk.read(entry.values.address + number * entry.chunk_stride, entry.chunk_stride)
        else:
            values = packed.part(slice(*entry.rows(number))).reshape(-1).view(np.uint8)
            data = np.concatenate([values, np.zeros(entry.chunk_stride - len(values), np.uint8)])
        if checksum(data) != digest:
            broken.append(number)
    if broken:
        raise damage(disk.path, entry, broken)


def _failed(disk: Readable, array: Array) -> int:
    """How many rows have failed; each must have failed or not."""
    n_failed = row = 0
    for status in pieces(disk, array.address, array.nbytes):
        if (wrong := np.flatnonzero((status != 1) & (status != 2))).size:
            rows = first_few((row + wrong[:11]).tolist())
            raise damaged(disk.path, f"the status of rows {rows}", "1 or 2", str(status[wrong[0]]))
        n_failed += int(np.count_nonzero(status == 2))
        row += len(status)
    return n_failed


def _check_hdf5(path: Path, header: Header) -> None:
    expected = _expected(header)
    found = described(path)
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            what = "the HDF5 attributes" if name == "attributes" else f"the HDF5 dataset {name}"
            raise damaged(path, what, str(expected.get(name, "absent")), f"{found.get(name, 'absent')!s:.400}")


def _expected(header: Header) -> dict[str, Any]:
    table = header.table
    outputs = {entry.values.path: entry for entry in table.outputs}
    objects: dict[str, Any] = {
        "attributes": {"format_version": table.version, "fingerprint": table.fingerprint},
        **{array.path: _described(array, outputs.get(array.path)) for array in table.arrays()},
        **{entry.values.path: _packed(entry, header.indexes[entry.name]) for entry in table.outputs if entry.index},
    }
    groups = {str(folder) for path in objects for folder in PurePosixPath(path).parents} - {".", "/"}
    return objects | dict.fromkeys(groups, "a group")


def _packed(entry: OutputEntry, index: NDArray[np.uint64]) -> list[Any]:
    values = entry.values
    place = chunk_digest(np.column_stack([np.arange(len(index), dtype=np.uint64) * entry.packed_rows, index[:, :2]]))
    filters = packed_filters(np.dtype(values.dtype).itemsize)
    return [values.dtype, list(values.shape), [entry.packed_rows, *values.shape[1:]], filters, place]


def _described(array: Array, output: OutputEntry | None) -> list[Any]:
    if output is None:
        return [array.dtype, list(array.shape), None, [], array.address]
    grid, stride = np.arange(output.n_chunks, dtype=np.uint64), output.chunk_stride
    place = chunk_digest(
        np.column_stack([grid * output.chunk_rows, array.address + grid * stride, np.full_like(grid, stride)])
    )
    return [array.dtype, list(array.shape), [output.chunk_rows, *array.shape[1:]], [], place]
