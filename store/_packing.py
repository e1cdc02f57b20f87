"""Packing a feature set into a compressed copy, and back. See FORMAT.md, "Packed files"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featurebank.store import _header, limits
from featurebank.store._chunks import checksum
from featurebank.store._claiming import named_when_complete
from featurebank.store._disk import Disk, reading, storage_error
from featurebank.store._layout import LARGEST_CHUNK, LIBVER, check_limits, choose_chunk_rows, create_file
from featurebank.store._names import final_path
from featurebank.store._packed import packed_settings
from featurebank.store._partial import PartialFile
from featurebank.store._records import Records
from featurebank.store._sealed import SealedFile
from featurebank.store._table import Array, OutputEntry, Table
from featurebank.store.errors import ExistsError, InvalidInputError
from featurebank.store.verify import verify_copy

_CHUNK_BYTES = 16 << 10
_CHUNKS = limits.PACKED_CHUNKS // 2


def pack(source: SealedFile, target: Path) -> None:
    """Writes a compressed copy, verified before it has its name; raises as `FeatureSet.pack`."""
    target = final_path(target)
    with reading(source.path):
        table = check_limits(_packed_table(source.table), target)
        with named_when_complete(target, locked=True) as hidden:
            try:
                addresses = _write_hdf5(hidden, source, table)
            except (OSError, RuntimeError) as error:
                cause = error if isinstance(error, OSError) else OSError(None, str(error))
                raise storage_error(cause, target, "pack") from error
            _write_header(hidden, source, table.with_addresses(addresses), _header.user_block_size(table))
            verify_copy(hidden, source.path, source.fingerprint)


def unpack(source: SealedFile, target: Path) -> None:
    """Writes a feature set of uncompressed chunks again; raises as `FeatureSet.unpack`."""
    with reading(source.path):
        _unpack(source, target)


def _unpack(source: SealedFile, target: Path) -> None:
    table = source.table
    if table.version == 1:
        raise InvalidInputError(f"{source.path} must be packed to be unpacked; it is not; copy it as it is")
    records = Records(
        ids=source.ids.tolist(), labels=source.labels, content_hash=source.content_hash, columns=source.columns
    )
    try:
        writer = PartialFile.create(
            target,
            key=source.key,
            outputs=table.described(),
            records=records,
            head=source.head,
            provenance=source.provenance,
            chunk_bytes=_chunk_bytes(table),
        )
    except ExistsError:
        # Nobody's partial: an earlier attempt that was cut short, if it has the same key.
        writer = PartialFile.resume(target)
        if writer.fingerprint != source.fingerprint:
            writer.close()
            raise
    with writer:
        for name in source.outputs:
            rows = writer.chunk_rows(name)
            for index in np.flatnonzero(writer.pending(name)).tolist():
                writer.write_chunk(name, index, source.load(name, slice(index * rows, (index + 1) * rows)))
        writer.mark_ok(0, writer.n_rows)
        for row, reason in source.reasons.items():
            writer.mark_failed(row, reason)
        writer.seal_as_it_is()


def _packed_table(table: Table) -> Table:
    if table.version != 1:
        raise InvalidInputError("a packed feature set cannot be packed again; copy it as it is")

    nbytes = sum(output.values.nbytes for output in table.outputs)
    # Larger ones where there would be more than the format allows; rounding down doubles their number at most.
    chunk_bytes = max(_CHUNK_BYTES, nbytes // _CHUNKS)

    def packed(output: OutputEntry) -> OutputEntry:
        row_bytes = output.chunk_stride // output.chunk_rows
        rows = min(1 << (max(1, chunk_bytes // row_bytes).bit_length() - 1), output.chunk_rows)
        index = Array(f"/packed/{output.name}", 0, (-(-table.n_rows // rows), 3), "<u8")
        return replace(output, values=output.values._replace(address=0), packed_rows=rows, index=index)

    return replace(table, outputs=tuple(packed(output) for output in table.outputs))


def _write_hdf5(path: Path, source: SealedFile, table: Table) -> dict[str, int]:
    import h5py  # type: ignore[import-untyped]

    addresses = create_file(path, table, {})
    # Packed chunks lie close together, so that what lies between them is soon hashed.
    with h5py.File(path, "r+", libver=LIBVER, locking=False) as file:
        for entry in table.outputs:
            stored = file.create_dataset(entry.values.path, entry.values.shape, **packed_settings(entry))
            # Several chunks at a time, so that each row is read and hashed once.
            step = max(entry.packed_rows, entry.chunk_rows // entry.packed_rows * entry.packed_rows)
            for start in range(0, table.n_rows, step):
                rows = slice(start, min(start + step, table.n_rows))
                stored[rows] = source.load(entry.name, rows)
    return addresses


def _write_header(path: Path, source: SealedFile, table: Table, block_size: int) -> None:
    with Disk(path, writable=True) as disk:
        for entry, index in zip(table.outputs, _indexes(path, disk, table), strict=True):
            assert entry.index is not None  # noqa: S101 - for the type checker: the table is a packed one
            disk.write(entry.index.address, index.reshape(-1).view(np.uint8))
        old = {array.path: array for array in source.table.small_arrays()}
        for array in table.small_arrays():
            if array.path in old:
                disk.write(array.address, source.raw(old[array.path]))
        disk.write(0, _header.pack(table, block_size, disk.size))
        digests = b"".join(source.header.digest(slot) for slot in range(len(table.digested)))
        _header.seal(disk, _header.read_header(disk), digests)


def _indexes(path: Path, disk: Disk, table: Table) -> Iterator[Any]:
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        for entry in table.outputs:
            chunks: list[tuple[int, int, int]] = []
            file[entry.values.path].id.chunk_iter(
                lambda info, chunks=chunks: chunks.append((info.chunk_offset[0], info.byte_offset, info.size))
            )
            places = [place[1:] for place in sorted(chunks)]
            yield np.array([(first, size, checksum(disk.read(first, size))) for first, size in places], "<u8")


def _chunk_bytes(table: Table) -> int:
    """A ``chunk_bytes`` that gives every output the chunks it had."""
    strides = [(output.chunk_stride // output.chunk_rows, output.chunk_rows) for output in table.outputs]
    for size in (1 << power for power in range(12, 25)):
        if all(choose_chunk_rows(row_bytes, table.n_rows, size) == rows for row_bytes, rows in strides):
            return size
    return min(LARGEST_CHUNK, max(output.chunk_stride for output in table.outputs))
