"""The header at the start of the file: where every array lies, and the digests. See FORMAT.md, "The header".

A header is read in the order in which it can be trusted: magic, version, file size, digest of the table, and only then
the table's JSON, every address and size of which is checked against the file in exact integer arithmetic.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from featurebank.store._disk import Disk
from featurebank.store._records import Output
from featurebank.store.errors import CorruptError, FormatVersionError, NotAFeatureSetError

__all__ = [
    "DIGEST_END",
    "FORMAT_VERSION",
    "PARTIAL",
    "SEALED",
    "SLOTS",
    "STATE",
    "Array",
    "Header",
    "OutputEntry",
    "Table",
    "pack",
    "read_header",
    "user_block_size",
]

MAGIC = b"\x89FBK\r\n\x1a\n"
FORMAT_VERSION = 1
PARTIAL, SEALED = 1, 2

# magic, version, user block size, file size, JSON length, digest slots | table digest | state | file digest
_FIXED = struct.Struct("<8sIIQII")
_TABLE_DIGEST = 32
STATE = 48
_FILE_DIGEST = 64
DIGEST_END = 80
SLOTS = 128
_LARGEST_BLOCK = 1 << 26
_LARGEST = 1 << 62
_PIECE = 8 << 20
_DTYPE = re.compile(r"<f[248]|<[iu][248]|\|[iu]1|\|b1|\|S[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Array:
    """One array of the file: its HDF5 path, absolute byte address, shape and NumPy dtype string."""

    path: str
    address: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """The bytes of the array's values."""
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)

    @property
    def end(self) -> int:
        """The address after the array's last byte."""
        return self.address + self.nbytes


@dataclass(frozen=True)
class OutputEntry:
    """One output: its values (N, …), the chunk grid, and the (chunks,) checksums."""

    name: str
    values: Array
    chunk_rows: int
    chunk_stride: int
    checksums: Array

    @property
    def n_chunks(self) -> int:
        """The number of chunks; the last may hold fewer rows."""
        return -(-self.values.shape[0] // self.chunk_rows)

    @property
    def extent(self) -> tuple[int, int]:
        """The addresses of the first byte and after the last byte of all chunks, the last one's padding included."""
        return self.values.address, self.values.address + self.n_chunks * self.chunk_stride

    def rows(self, index: int) -> tuple[int, int]:
        """The first row of a chunk and the row after its last."""
        return index * self.chunk_rows, min((index + 1) * self.chunk_rows, self.values.shape[0])


@dataclass(frozen=True)
class Table:
    """Everything in the file. ``digested`` is the order of the digest slots."""

    fingerprint: str
    n_rows: int
    outputs: tuple[OutputEntry, ...]
    records: dict[str, Array]
    columns: dict[str, Array]
    head: dict[str, Array]
    manifest: Array

    @property
    def digested(self) -> tuple[Array, ...]:
        """The arrays that have a digest slot: records, columns, head, each in the table's order."""
        return (*self.records.values(), *self.columns.values(), *self.head.values())

    def described(self) -> tuple[Output, ...]:
        """The outputs as the public sees them."""
        return tuple(
            Output(name=o.name, shape=o.values.shape[1:], dtype=np.dtype(o.values.dtype).name) for o in self.outputs
        )

    def small_arrays(self) -> Iterator[Array]:
        """Every array but the outputs' values."""
        yield self.manifest
        yield from (output.checksums for output in self.outputs)
        yield from (*self.head.values(), *self.records.values(), *self.columns.values())

    def arrays(self) -> Iterator[Array]:
        """Every array."""
        yield from self.small_arrays()
        yield from (output.values for output in self.outputs)

    def placed(self, addresses: Mapping[str, int]) -> Table:
        """The same table with the address of each HDF5 path filled in."""

        def at(array: Array) -> Array:
            return replace(array, address=addresses[array.path])

        return replace(
            self,
            outputs=tuple(replace(o, values=at(o.values), checksums=at(o.checksums)) for o in self.outputs),
            records={name: at(array) for name, array in self.records.items()},
            columns={name: at(array) for name, array in self.columns.items()},
            head={name: at(array) for name, array in self.head.items()},
            manifest=at(self.manifest),
        )

    def covered(self, file_size: int) -> Iterator[tuple[int, int]]:
        """The ranges of the file that the file digest covers: all that has no digest or checksum of its own."""
        start = DIGEST_END
        yield 0, _FILE_DIGEST
        extents = [output.extent for output in self.outputs] + [(a.address, a.end) for a in self.digested]
        for first, last in sorted(extents):
            yield start, first
            start = last
        yield start, file_size

    def to_json(self) -> bytes:
        """The canonical JSON of the table."""
        tree = {
            "fingerprint": self.fingerprint,
            "rows": self.n_rows,
            "outputs": [
                {
                    "name": o.name,
                    "values": vars(o.values),
                    "chunk_rows": o.chunk_rows,
                    "chunk_stride": o.chunk_stride,
                    "alignment": math.gcd(o.chunk_stride, 4096),
                    "checksums": vars(o.checksums),
                }
                for o in self.outputs
            ],
            **{
                group: [{"name": name, **vars(array)} for name, array in getattr(self, group).items()]
                for group in ("records", "columns", "head")
            },
            "manifest": vars(self.manifest),
        }
        return json.dumps(tree, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")


@dataclass(frozen=True)
class Header:
    """The decoded header of a file."""

    table: Table
    state: int
    block: bytes
    file_size: int
    file_digest: bytes

    def digest(self, slot: int) -> bytes:
        """The XXH3-128 recorded for ``table.digested[slot]``."""
        return self.block[SLOTS + 16 * slot : SLOTS + 16 * slot + 16]

    def sealed_digest(self, disk: Disk) -> bytes:
        """The file digest that belongs to the file's bytes as they are on the disk, for the state sealed."""
        state = xxhash.xxh3_128()
        for first, last in self.table.covered(self.file_size):
            for start in range(first, last, _PIECE):
                data = disk.read(start, min(_PIECE, last - start))
                if start == 0:
                    data[STATE] = SEALED
                state.update(data.data)
        return state.digest()


def user_block_size(table: Table) -> int:
    """The smallest power of two of at least 4,096 bytes that holds the header of a table with room to spare."""
    # Addresses are not known yet when the size is chosen: 20 more digits for each of them.
    arrays = len(table.digested) + 2 * len(table.outputs) + 1
    need = SLOTS + 16 * len(table.digested) + len(table.to_json()) + 20 * arrays
    return max(4096, 1 << (need - 1).bit_length())


def pack(table: Table, block_size: int, file_size: int) -> bytes:
    """The user block of a new partial: empty digest slots, no file digest."""
    text = table.to_json()
    slots = len(table.digested)
    fixed = _FIXED.pack(MAGIC, FORMAT_VERSION, block_size, file_size, len(text), slots)
    digest = xxhash.xxh3_128_digest(fixed + text)
    start = (fixed + digest + bytes([PARTIAL])).ljust(SLOTS + 16 * slots, b"\0") + text
    if len(start) > block_size:
        raise AssertionError(f"the header needs {len(start)} bytes; the user block has {block_size}")
    return start.ljust(block_size, b"\0")


def read_header(disk: Disk) -> Header:
    """Reads and checks the header, and that every array lies within the file; reads no array.

    Raises:
        NotAFeatureSetError: the file begins with other bytes.
        FormatVersionError: the file has another format version.
        CorruptError: the file is truncated, or the header damaged or absurd.
    """
    path, size = disk.path, disk.size
    start = disk.read(0, min(SLOTS, size)).tobytes()
    if start[:8] != MAGIC[: len(start)] or size < 12:
        raise NotAFeatureSetError(
            f"{path} must begin with {MAGIC!r}; found {start[:8]!r} ({size} bytes): "
            f"it is no feature set, or its start was overwritten; check the path"
        )
    if (version := int.from_bytes(start[8:12], "little")) != FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} has format version {version}; this release reads version {FORMAT_VERSION}; "
            + ("install a newer featurebank" if version > FORMAT_VERSION else "extract it again")
        )
    if size < SLOTS:
        raise _corrupt(path, "a header", f"{SLOTS} bytes or more", f"{size} bytes")
    _, _, block_size, file_size, length, slots = _FIXED.unpack(start[: _FIXED.size])
    if file_size != size:
        raise _corrupt(path, "its size", f"{file_size} bytes", f"{size} bytes")
    end = SLOTS + 16 * slots + length
    if block_size & (block_size - 1) or not max(4096, end) <= block_size <= min(_LARGEST_BLOCK, size):
        raise _corrupt(path, "the user block", f"a power of two that holds {end} bytes", f"{block_size} bytes")
    block = disk.read(0, block_size).tobytes()
    text = block[SLOTS + 16 * slots : end]
    digest = xxhash.xxh3_128_digest(block[: _FIXED.size] + text)
    if digest != block[_TABLE_DIGEST : _TABLE_DIGEST + 16]:
        raise _corrupt(path, "the header's digest", block[_TABLE_DIGEST : _TABLE_DIGEST + 16].hex(), digest.hex())
    table = _decode(path, text)
    if slots != len(table.digested):
        raise _corrupt(path, "the digest slots", str(len(table.digested)), str(slots))
    _check_extents(path, table, block_size, file_size)
    if block[STATE] not in (PARTIAL, SEALED):
        raise _corrupt(path, "the state", f"{PARTIAL} or {SEALED}", str(block[STATE]))
    return Header(table, block[STATE], block, file_size, block[_FILE_DIGEST:DIGEST_END])


def _corrupt(path: Path, what: str, expected: str, found: str) -> CorruptError:
    return CorruptError(
        f"{path} is damaged: {what} must be {expected}; found {found}; restore it from a copy or extract it again"
    )


def _decode(path: Path, text: bytes) -> Table:
    try:
        tree = json.loads(text)
        return _table(tree)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path} is damaged: its header's table is malformed ({error}); extract it again") from error


def _table(tree: dict[str, Any]) -> Table:
    n_rows = _integer(tree["rows"], 1)
    table = Table(
        fingerprint=_text(tree["fingerprint"]),
        n_rows=n_rows,
        outputs=tuple(_output(entry, n_rows) for entry in tree["outputs"]),
        records=_arrays(tree["records"]),
        columns=_arrays(tree["columns"]),
        head=_arrays(tree["head"]),
        manifest=_array(tree["manifest"]),
    )
    _check_roles(table)
    return table


def _output(entry: dict[str, Any], n_rows: int) -> OutputEntry:
    output = OutputEntry(
        _text(entry["name"]),
        _array(entry["values"]),
        _integer(entry["chunk_rows"], 1),
        _integer(entry["chunk_stride"], 1),
        _array(entry["checksums"]),
    )
    values = output.values
    row_bytes = math.prod(values.shape[1:]) * np.dtype(values.dtype).itemsize
    must_hold = {
        "float16 or float32": values.dtype in ("<f2", "<f4"),
        f"{n_rows} rows": values.shape[:1] == (n_rows,),
        "at most one chunk more than rows": output.chunk_rows <= n_rows,
        "chunks without gaps": output.chunk_stride == output.chunk_rows * row_bytes,
        "one checksum per chunk": (output.checksums.dtype, output.checksums.shape) == ("<u8", (output.n_chunks,)),
    }
    if broken := [what for what, holds in must_hold.items() if not holds]:
        raise ValueError(f"output {output.name!r} must have {', '.join(broken)}")
    return output


def _check_roles(table: Table) -> None:
    n = table.n_rows
    records = {name: (array.dtype, array.shape) for name, array in table.records.items()}
    label = records.get("label", ("", ()))
    hashes, status = records.get("content_hash"), records.get("status")
    strings = [records.get(name, ("", ())) for name in ("id", "reason")]
    head = [(array.dtype in ("<f2", "<f4"), array.shape) for array in table.head.values()]
    must_hold = {
        "outputs, distinct by name": len({o.name for o in table.outputs}) == len(table.outputs) > 0,
        "five record arrays": set(records) == {"id", "label", "content_hash", "status", "reason"},
        "ids and reasons of fixed width": all(d.startswith("|S") and s == (n,) for d, s in strings),
        "int64 labels": label[0] == "<i8" and label[1][:1] == (n,) and len(label[1]) in (1, 2),
        "content hashes of 16 bytes": hashes == ("|u1", (n, 16)),
        "one status byte a row": status == ("|u1", (n,)),
        "columns of one value a row": all(array.shape == (n,) for array in table.columns.values()),
        "no head, or its weight and bias": not head
        or (list(table.head) == ["weight", "bias"] and all(ok for ok, _ in head) and head[0][1][:1] == head[1][1]),
        "a fixed-width manifest": table.manifest.dtype.startswith("|S") and table.manifest.shape == (),
    }
    if broken := [what for what, holds in must_hold.items() if not holds]:
        raise ValueError(f"it must have {', '.join(broken)}")


def _check_extents(path: Path, table: Table, block_size: int, file_size: int) -> None:
    extents = [(*output.extent, output.values.path) for output in table.outputs]
    arrays = [*table.digested, *(output.checksums for output in table.outputs), table.manifest]
    extents += [(array.address, array.end, array.path) for array in arrays]
    previous, before = block_size, "the user block"
    for first, last, name in sorted(extents):
        if first < previous:
            raise _corrupt(path, f"the address of {name}", f"{previous} or more, after {before}", str(first))
        previous, before = last, name
    if previous > file_size:
        raise _corrupt(path, f"the end of {before}", f"within the file's {file_size} bytes", str(previous))


def _arrays(entries: Sequence[dict[str, Any]]) -> dict[str, Array]:
    arrays = {_text(entry["name"]): _array(entry) for entry in entries}
    if len(arrays) != len(entries):
        raise ValueError("array names must be distinct")
    return arrays


def _array(entry: dict[str, Any]) -> Array:
    shape, dtype = tuple(_integer(n, 1) for n in entry["shape"]), _text(entry["dtype"])
    if len(shape) > 8 or not _DTYPE.fullmatch(dtype):
        raise ValueError(f"shape {shape} or dtype {dtype!r} is not allowed")
    array = Array(_text(entry["path"]), _integer(entry["address"], 0), shape, dtype)
    if array.end > _LARGEST:
        raise ValueError(f"{array.path} ends at {array.end}, beyond any file")
    return array


def _integer(value: object, least: int) -> int:
    if type(value) is not int or not least <= value <= _LARGEST:
        raise ValueError(f"{value!r:.40} must be an integer of at least {least}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} must be a string")
    return value
