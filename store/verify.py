"""Verification: every byte is hashed again, and only then is the HDF5 metadata compared with the header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from featurebank.store._chunks import checksum
from featurebank.store._disk import Disk
from featurebank.store._header import FORMAT_VERSION, Array, Header, OutputEntry
from featurebank.store._opening import open_sealed
from featurebank.store._records import first_few, quantity
from featurebank.store.errors import CorruptError

__all__ = ["VerifyReport", "verify"]


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
    """

    path: Path
    fingerprint: str = ""
    n_rows: int = 0
    n_failed: int = 0
    chunks: dict[str, int]
    nbytes: int = 0
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.error


def verify(path: Path) -> VerifyReport:
    """Verifies a sealed file; reads it with plain reads, never through a mapping.

    Raises:
        CorruptError: the first damage, in the order header, records, outputs, HDF5 metadata; for outputs every
            damaged chunk of the output is named.
        StoreError: as for opening it.
    """
    disk, header, _ = open_sealed(path)
    try:
        table = header.table
        for slot, array in enumerate(table.digested):
            _check_digest(disk, header, slot, array)
        for entry in table.outputs:
            _check_chunks(disk, entry)
        status = table.records["status"]
        n_failed = int(np.count_nonzero(_check_status(disk, status) == 2))
        _check_hdf5(path, header)
    finally:
        disk.close()
    return VerifyReport(
        path=path,
        fingerprint=table.fingerprint,
        n_rows=table.n_rows,
        n_failed=n_failed,
        chunks={entry.name: entry.n_chunks for entry in table.outputs},
        nbytes=header.file_size,
    )


def _check_digest(disk: Disk, header: Header, slot: int, array: Array) -> None:
    found = xxhash.xxh3_128_digest(disk.read(array.address, array.nbytes).data)
    if found != header.digest(slot):
        raise _corrupt(disk.path, f"the digest of {array.path}", header.digest(slot).hex(), found.hex())


def _check_chunks(disk: Disk, entry: OutputEntry) -> None:
    expected = disk.read(entry.checksums.address, entry.checksums.nbytes).view("<u8").tolist()
    data = np.empty(entry.chunk_stride, np.uint8)
    damaged = []
    for index, digest in enumerate(expected):
        disk.read_into(data, entry.values.address + index * entry.chunk_stride)
        if checksum(data) != digest:
            damaged.append(index)
    if damaged:
        first, last = entry.rows(damaged[0])
        raise CorruptError(
            f"{disk.path} is damaged: output {entry.name!r}, {quantity(len(damaged), 'chunk')} "
            f"({first_few(damaged)}) must have their recorded checksums; chunk {damaged[0]}, "
            f"rows {first} to {last - 1}, has not; restore it from a copy or extract it again"
        )


def _check_status(disk: Disk, array: Array) -> Any:
    status = disk.read(array.address, array.nbytes)
    if wrong := np.flatnonzero((status != 1) & (status != 2)).tolist():
        raise _corrupt(disk.path, f"the status of rows {first_few(wrong)}", "1 or 2", str(status[wrong[0]]))
    return status


def _check_hdf5(path: Path, header: Header) -> None:
    import h5py  # type: ignore[import-untyped]

    table = header.table
    outputs = {entry.values.path: entry for entry in table.outputs}
    expected = {array.path: _described(array, outputs.get(array.path)) for array in table.arrays()}
    found: dict[str, Any] = {}
    with h5py.File(path, "r", locking=False) as file:
        attributes = {name: file.attrs[name] for name in file.attrs}
        file.visititems_links(lambda name, link: _collect(found, file, f"/{name}", link))
    wanted = {"format_version": FORMAT_VERSION, "fingerprint": table.fingerprint.encode()}
    for name, value in wanted.items():
        if attributes.get(name) != value:
            raise _corrupt(path, f"the HDF5 attribute {name}", repr(value), repr(attributes.get(name)))
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise _corrupt(
                path, f"the HDF5 dataset {name}", str(expected.get(name, "absent")), str(found.get(name, "absent"))
            )


def _described(array: Array, output: OutputEntry | None) -> tuple[Any, ...]:
    if output is None:
        return array.dtype, array.shape, None, None, array.address
    chunks = tuple(
        (index * output.chunk_rows, array.address + index * output.chunk_stride, output.chunk_stride)
        for index in range(output.n_chunks)
    )
    return array.dtype, array.shape, (output.chunk_rows, *array.shape[1:]), None, chunks


def _collect(found: dict[str, Any], file: Any, name: str, link: Any) -> None:
    import h5py

    if not isinstance(link, h5py.HardLink):
        found[name] = f"a link of another kind, {type(link).__name__}"
        return
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        return
    filters = None if item.id.get_create_plist().get_nfilters() == 0 else "filters"
    place: Any = item.id.get_offset()
    if item.chunks is not None:
        placed: list[tuple[int, int, int]] = []
        item.id.chunk_iter(lambda info: placed.append((info.chunk_offset[0], info.byte_offset, info.size)))
        place = tuple(sorted(placed))
    found[name] = (item.dtype.str, item.shape, item.chunks, filters, place)


def _corrupt(path: Path, what: str, expected: str, found: str) -> CorruptError:
    return CorruptError(
        f"{path} is damaged: {what} must be {expected}; found {found}; restore it from a copy or extract it again"
    )
