"""Lays a new file out completely: HDF5 objects, records, header, reserved blocks. The only module that creates HDF5.

From the moment a partial has its name, its HDF5 metadata never changes again: the writer needs only addresses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import _header, _manifest, limits
from featurebank.store._claiming import claim, hidden_file, make_folder
from featurebank.store._disk import Disk, pieces, storage_error
from featurebank.store._records import Output
from featurebank.store._table import Array, OutputEntry, Table
from featurebank.store.errors import ExistsError, InvalidInputError, StorageError
from featurebank.store.fingerprint import fingerprint

ALIGNMENT = 4096
SMALL_ALIGNMENT = 64
LIBVER = ("v110", "v110")
LARGEST_CHUNK = 16 << 20
_MOST_ROWS = 2048
_RECORDS, _COLUMNS, _HEAD, _MANIFEST = "/records", "/records/columns", "/head", "/manifest"


@dataclass(frozen=True)
class Contents:
    """What goes into a new file, checked and encoded."""

    key: Mapping[str, Any]
    provenance: Mapping[str, Any]
    outputs: Sequence[Output]
    records: dict[str, NDArray[Any]]
    columns: dict[str, NDArray[Any]]
    head: dict[str, NDArray[Any]]
    chunk_bytes: int


def choose_chunk_rows(row_bytes: int, n_rows: int, chunk_bytes: int) -> int:
    """Rows per chunk: the largest power of two within ``chunk_bytes``, raised until chunks are whole pages.

    At most 2,048 rows, so that the chunk grids of all outputs nest. Pages are given up only where they would make a
    chunk larger than 16 MiB. A split that fits into one chunk has one chunk of exactly its rows.

    >>> choose_chunk_rows(768 * 2, 200_000, 2 << 20), choose_chunk_rows(1281 * 2, 200_000, 1 << 20)
    (1024, 2048)
    >>> choose_chunk_rows(257 * 384 * 2, 200_000, 2 << 20), choose_chunk_rows(768 * 2, 10, 2 << 20)
    (16, 10)
    """
    fit = max(1, min(_MOST_ROWS, chunk_bytes // row_bytes))
    rows = 1 << (fit.bit_length() - 1)
    whole_pages = ALIGNMENT // math.gcd(ALIGNMENT, row_bytes)
    if whole_pages * row_bytes <= LARGEST_CHUNK:
        rows = max(rows, whole_pages)
    return min(rows, n_rows)


def lay_out(partial: Path, contents: Contents) -> Disk:
    """Lays out ``partial`` under a temporary name, then gives it its name; returns it open and locked.

    Raises:
        InvalidInputError: something is larger than the format allows.
        ExistsError: there already is a partial of that name.
        StorageError: not enough space, or the operating system refuses otherwise; nothing is left behind.
    """
    planned = check_limits(_plan(contents), partial)
    make_folder(partial.parent)
    disk = hidden_file(partial.parent)
    hidden = disk.path
    try:
        table = _create_hdf5(hidden, planned, contents)
        # Of the plan: addresses make the table longer.
        _finish(disk, table, _header.user_block_size(planned), contents)
        _claim(hidden, partial)
    except BaseException as error:
        disk.close()
        if isinstance(error, StorageError):
            # The layout's name is of no use to anyone: name the file that was asked for.
            raise StorageError(error.errno, f"{error.strerror}".replace(str(hidden), str(partial))) from error
        raise
    finally:
        hidden.unlink(missing_ok=True)
    disk.path = partial
    return disk


def _claim(hidden: Path, partial: Path) -> None:
    try:
        claim(hidden, partial)
    except ExistsError as error:
        raise ExistsError(
            f"{partial} already exists: a feature set is being written there, or was interrupted; "
            f"resume it with FeatureSetWriter.resume, or delete it"
        ) from error


def check_limits(table: Table, path: Path) -> Table:
    """The table of a file that is to be written, where the reader will take it.

    Raises:
        InvalidInputError: something is larger than the format allows.
    """
    try:
        table.check_limits()
        if (size := _header.user_block_size(table)) > limits.HEADER_BYTES:
            raise ValueError(f"the bytes of the header must be at most {limits.HEADER_BYTES:,}; found {size:,}")
    except ValueError as error:
        raise InvalidInputError(f"{path}: {error}; write less into one feature set") from error
    return table


def create_file(path: Path, table: Table, values: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Creates the HDF5 file of a table with all but the outputs' values; returns the address of each array."""
    import h5py  # type: ignore[import-untyped]

    # v110: superblock 3 and the implicit chunk index, one contiguous allocation that needs no index in the file.
    settings = {"userblock_size": _header.user_block_size(table), "libver": LIBVER, "locking": False}
    aligned = {"alignment_threshold": 1, "alignment_interval": SMALL_ALIGNMENT}
    with h5py.File(path, "w", **settings, **aligned) as file:
        file.attrs.create("format_version", np.uint32(table.version))
        file.attrs.create("fingerprint", np.bytes_(table.fingerprint))
        return {
            array.path: _create_dataset(file, array, None, values.get(array.path)) for array in table.small_arrays()
        }


def _create_hdf5(path: Path, planned: Table, contents: Contents) -> Table:
    import h5py

    try:
        # Alignment is a property of an open file: small arrays first, on cache lines, then the outputs, on pages.
        addresses = create_file(path, planned, _values(contents))
        aligned = {"alignment_threshold": 1, "alignment_interval": ALIGNMENT}
        with h5py.File(path, "r+", libver=LIBVER, locking=False, **aligned) as file:
            for output in planned.outputs:
                addresses[output.values.path] = _create_dataset(file, output.values, output, None)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else OSError(None, str(error))
        raise storage_error(cause, path, "create") from error
    return planned.with_addresses(addresses)


def _plan(contents: Contents) -> Table:
    n_rows = len(contents.records["id"])
    outputs = []
    for output in contents.outputs:
        dtype = np.dtype(output.dtype).newbyteorder("<")
        row_bytes = math.prod(output.shape) * dtype.itemsize
        rows = choose_chunk_rows(row_bytes, n_rows, contents.chunk_bytes)
        values = Array(f"/outputs/{output.name}", 0, (n_rows, *output.shape), dtype.str)
        checksums = Array(f"/checksums/{output.name}", 0, (-(-n_rows // rows),), "<u8")
        outputs.append(OutputEntry(output.name, values, rows, rows * row_bytes, checksums))
    records = _unplaced(_RECORDS, contents.records)
    records["status"] = Array(f"{_RECORDS}/status", 0, (n_rows,), "|u1")
    records["reason"] = Array(f"{_RECORDS}/reason", 0, (n_rows,), f"|S{limits.REASON_BYTES}")
    return Table(
        fingerprint=fingerprint(contents.key),
        n_rows=n_rows,
        outputs=tuple(outputs),
        records=records,
        columns=_unplaced(_COLUMNS, contents.columns),
        head=_unplaced(_HEAD, contents.head),
        manifest=Array(_MANIFEST, 0, (), f"|S{_manifest.capacity(contents.key, contents.provenance)}"),
    )


def _unplaced(group: str, values: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
    return {name: Array(f"{group}/{name}", 0, v.shape, v.dtype.str) for name, v in values.items()}


def _values(contents: Contents) -> dict[str, NDArray[Any]]:
    groups = {_RECORDS: contents.records, _COLUMNS: contents.columns, _HEAD: contents.head}
    return {f"{group}/{name}": values for group, arrays in groups.items() for name, values in arrays.items()}


def _create_dataset(file: Any, array: Array, chunks: OutputEntry | None, values: NDArray[Any] | None) -> int:
    """Creates one dataset of the file, early and unfiltered, and returns its address."""
    from h5py import h5d, h5p, h5s

    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    if chunks is not None:
        creation.set_chunk((chunks.chunk_rows, *array.shape[1:]))
    parent, name = array.path.rsplit("/", 1)
    group = file.require_group(parent or "/")
    space = h5s.create_simple(array.shape) if array.shape else h5s.create(h5s.SCALAR)
    hdf5_type = _hdf5_type(array)
    dataset = h5d.create(group.id, name.encode(), hdf5_type, space, creation)
    if values is not None:
        dataset.write(h5s.ALL, h5s.ALL, values, mtype=hdf5_type)
    return int(dataset.get_offset()) if chunks is None else _first_chunk(dataset, chunks)


def _first_chunk(dataset: Any, output: OutputEntry) -> int:
    found: list[tuple[int, int, int]] = []
    dataset.chunk_iter(lambda info: found.append((info.chunk_offset[0], info.byte_offset, info.size)))
    found.sort()
    first, rows, stride = found[0][1], output.chunk_rows, output.chunk_stride
    if found != [(i * rows, first + i * stride, stride) for i in range(output.n_chunks)]:
        raise AssertionError(f"HDF5 must place the chunks of {output.name} one after the other; found {found}")
    if first % ALIGNMENT:
        raise AssertionError(f"HDF5 must place {output.name} at a multiple of {ALIGNMENT}; found {first}")
    return first


def _hdf5_type(array: Array) -> Any:
    from h5py import h5t

    dtype = np.dtype(array.dtype)
    if dtype.kind != "S":
        return h5t.py_create(dtype, logical=True)
    string = h5t.C_S1.copy()
    string.set_size(dtype.itemsize)
    string.set_strpad(h5t.STR_SPACEPAD if array.path == _MANIFEST else h5t.STR_NULLPAD)
    string.set_cset(h5t.CSET_UTF8)
    return string


def _finish(disk: Disk, table: Table, block_size: int, contents: Contents) -> None:
    for output in table.outputs:
        first, last = output.extent
        disk.allocate(first, last - first)
    text = _manifest.encode(contents.key, contents.provenance)
    disk.write(table.manifest.address, text.ljust(table.manifest.nbytes))
    disk.write(0, _header.pack(table, block_size, disk.size))
    _check_addresses(disk, table, _values(contents))
    disk.sync()


def _check_addresses(disk: Disk, table: Table, values: Mapping[str, NDArray[Any]]) -> None:
    # HDF5 releases differ in whether an address includes the user block: believe only what can be read back.
    import h5py

    with h5py.File(disk.path, "r", locking=False) as file:
        for array in table.arrays():
            if array.path.startswith("/outputs/"):
                right = _probe(disk, array, file)
            elif array.path == _MANIFEST:
                right = file[array.path][()].startswith(b'{"key":')
            elif array.path in values:
                right = _holds(disk, array, values[array.path].reshape(-1).view(np.uint8))
            else:
                right = _probe(disk, array, file) and _holds(disk, array, None)
            if not right:
                raise AssertionError(f"HDF5 must have {array.path} at {array.address}, new bytes zero; it has not")


def _holds(disk: Disk, array: Array, expected: NDArray[np.uint8] | None) -> bool:
    """Whether the array's bytes are these, or all zero."""
    done = 0
    for piece in pieces(disk, array.address, array.nbytes):
        right = not piece.any() if expected is None else np.array_equal(piece, expected[done : done + len(piece)])
        if not right:
            return False
        done += len(piece)
    return True


def _probe(disk: Disk, array: Array, file: Any) -> bool:
    # The last value's bytes are set, read through HDF5 and cleared again.
    itemsize = np.dtype(array.dtype).itemsize
    last = array.end - itemsize
    disk.write(last, b"\x3c" * itemsize)
    seen = file[array.path][tuple(n - 1 for n in array.shape)]
    disk.write(last, bytes(itemsize))
    return bool(np.asarray(seen).tobytes() == b"\x3c" * itemsize)
