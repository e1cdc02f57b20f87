"""The header at the start of the file: where every array lies, and the digests. See FORMAT.md, "The header".

A header is read in the order in which it can be trusted: magic, version, file size, digest of the table, and only then
the table's JSON, every address and size of which is checked against the file in exact integer arithmetic.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from featurebank.store import limits
from featurebank.store._disk import Disk, Readable, pieces
from featurebank.store._table import DIGEST_END, FILE_DIGEST, LARGEST, Array, Table, decode_table
from featurebank.store.errors import CorruptError, FormatVersionError, NotAFeatureSetError, damaged

MAGIC = b"\x89FBK\r\n\x1a\n"
FORMAT_VERSIONS = (1, 2)
PARTIAL, SEALED = 1, 2

# magic, version, user block size, file size, JSON length, digest slots | table digest | state | file digest
_FIXED = struct.Struct("<8sIIQII")
_TABLE_DIGEST = 32
STATE = 48
SLOTS = 128
_LARGEST_PACKED = limits.CHUNK_BYTES + (1 << 20)


@dataclass(frozen=True)
class Header:
    """The decoded header of a file."""

    table: Table
    state: int
    block: bytes
    file_size: int
    file_digest: bytes
    indexes: Mapping[str, NDArray[np.uint64]] = field(default_factory=dict)
    packed: Sequence[tuple[int, int]] = ()

    def digest(self, slot: int) -> bytes:
        """The XXH3-128 recorded for ``table.digested[slot]``."""
        return self.block[SLOTS + 16 * slot : SLOTS + 16 * slot + 16]

    def sealed_digest(self, disk: Readable) -> bytes:
        """The file digest that belongs to the file's bytes as they are on the disk, for the state sealed."""
        state = xxhash.xxh3_128()
        for first, last in self.table.covered(self.file_size, self.packed):
            for number, data in enumerate(pieces(disk, first, last - first)):
                if first == number == 0:
                    data[STATE] = SEALED
                state.update(data.data)
        return state.digest()


def seal(disk: Disk, header: Header, digests: bytes) -> None:
    """Sets the digest slots, then the file digest with the state, each on the disk before what relies on it."""
    disk.write(SLOTS, digests)
    disk.sync()
    state = bytes([SEALED]).ljust(FILE_DIGEST - STATE, b"\0")
    disk.write(STATE, state + header.sealed_digest(disk))
    disk.sync()


def array_digest(disk: Readable, array: Array) -> bytes:
    """The XXH3-128 of an array's bytes as they are on the disk."""
    state = xxhash.xxh3_128()
    for piece in pieces(disk, array.address, array.nbytes):
        state.update(piece.data)
    return state.digest()


def user_block_size(table: Table) -> int:
    """The smallest power of two of at least 4,096 bytes that holds the header of a table with room to spare."""
    # Addresses are not known yet when the size is chosen: 20 more digits for each of them.
    arrays = len(table.digested) + 3 * len(table.outputs) + 1
    need = SLOTS + 16 * len(table.digested) + len(table.to_json()) + 20 * arrays
    return max(4096, 1 << (need - 1).bit_length())


def pack(table: Table, block_size: int, file_size: int) -> bytes:
    """The user block of a new partial: empty digest slots, no file digest."""
    text = table.to_json()
    slots = len(table.digested)
    fixed = _FIXED.pack(MAGIC, table.version, block_size, file_size, len(text), slots)
    digest = xxhash.xxh3_128_digest(fixed + text)
    start = (fixed + digest + bytes([PARTIAL])).ljust(SLOTS + 16 * slots, b"\0") + text
    if len(start) > block_size:
        raise AssertionError(f"the header needs {len(start)} bytes; the user block has {block_size}")
    return start.ljust(block_size, b"\0")


def read_header(disk: Readable) -> Header:
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
    if (version := int.from_bytes(start[8:12], "little")) not in FORMAT_VERSIONS:
        raise FormatVersionError(
            f"{path} has format version {version}; this release reads {' and '.join(map(str, FORMAT_VERSIONS))}; "
            + ("install a newer featurebank" if version > max(FORMAT_VERSIONS) else "extract it again")
        )
    if size < SLOTS:
        raise damaged(path, "a header", f"{SLOTS} bytes or more", f"{size} bytes")
    _, _, block_size, file_size, length, slots = _FIXED.unpack(start[: _FIXED.size])
    if file_size != size:
        raise damaged(path, "its size", f"{file_size} bytes", f"{size} bytes")
    end = SLOTS + 16 * slots + length
    if block_size & (block_size - 1) or not max(4096, end) <= block_size <= min(limits.HEADER_BYTES, size):
        expected = f"a power of two that holds {end} bytes, at most {limits.HEADER_BYTES}"
        raise damaged(path, "the user block", expected, f"{block_size} bytes")
    block = disk.read(0, block_size).tobytes()
    text = block[SLOTS + 16 * slots : end]
    digest = xxhash.xxh3_128_digest(block[: _FIXED.size] + text)
    if digest != block[_TABLE_DIGEST : _TABLE_DIGEST + 16]:
        raise damaged(path, "the header's digest", block[_TABLE_DIGEST : _TABLE_DIGEST + 16].hex(), digest.hex())
    table = _decode(path, text)
    if slots != len(table.digested):
        raise damaged(path, "the digest slots", str(len(table.digested)), str(slots))
    _check_extents(path, table, block_size, file_size)
    if block[STATE] not in (PARTIAL, SEALED):
        raise damaged(path, "the state", f"{PARTIAL} or {SEALED}", str(block[STATE]))
    indexes, packed = _packed(disk, table, block_size)
    covered = sum(last - first for first, last in table.covered(file_size, packed))
    # All of it is read at opening: a sparse file of any size must not keep the reader busy.
    if covered > limits.COVERED_BYTES:
        expected = f"at most {limits.COVERED_BYTES} bytes"
        raise damaged(path, "what lies outside the arrays", expected, f"{covered} bytes")
    return Header(table, block[STATE], block, file_size, block[FILE_DIGEST:DIGEST_END], indexes, packed)


def _decode(path: Path, text: bytes) -> Table:
    try:
        return decode_table(text)
    except Exception as error:  # whatever a stranger's JSON makes of the code
        what = f"{type(error).__name__}: {error!s:.400}"
        raise CorruptError(f"{path} is damaged: its header's table is malformed ({what}); extract it again") from error


def _check_extents(path: Path, table: Table, block_size: int, file_size: int) -> None:
    previous, before = block_size, "the user block"
    for first, last, array in table.extents:
        if first < previous:
            raise damaged(path, f"the address of {array.path}", f"{previous} or more, after {before}", str(first))
        previous, before = last, array.path
    if previous > file_size:
        raise damaged(path, f"the end of {before}", f"within the file's {file_size} bytes", str(previous))


def _packed(
    disk: Readable, table: Table, block_size: int
) -> tuple[dict[str, NDArray[np.uint64]], Sequence[tuple[int, int]]]:
    """The indexes of packed outputs, and the stretches of the file that their chunks fill."""
    indexes = {
        output.name: disk.read(output.index.address, output.index.nbytes).view("<u8").reshape(-1, 3)
        for output in table.outputs
        if output.index is not None
    }
    if not indexes:
        return {}, ()
    places = np.concatenate([index[:, :2] for index in indexes.values()])
    if (places >= LARGEST).any():
        raise damaged(disk.path, "the address of a packed chunk", f"below {LARGEST}", str(places.max()))
    if (largest := int(places[:, 1].max())) > _LARGEST_PACKED:
        raise damaged(disk.path, "the bytes of a packed chunk", f"at most {_LARGEST_PACKED}", str(largest))
    places = places[np.argsort(places[:, 0], kind="stable")].astype(np.int64)
    firsts, lasts = places[:, 0], places.sum(axis=1)
    starts = np.flatnonzero(firsts != np.r_[-1, lasts[:-1]])
    if len(starts) > limits.PACKED_STRETCHES:
        expected = f"in at most {limits.PACKED_STRETCHES} stretches"
        raise damaged(disk.path, "the packed chunks", expected, str(len(starts)))
    packed = list(zip(firsts[starts].tolist(), lasts[np.r_[starts[1:] - 1, len(lasts) - 1]].tolist(), strict=True))
    previous = block_size
    for first, last in sorted([*packed, *((array.address, array.end) for array in table.small_arrays())]):
        if first < previous:
            raise damaged(disk.path, "the address of a packed chunk", f"{previous} or more", str(first))
        previous = last
    if previous > disk.size:
        raise damaged(disk.path, "the end of the packed chunks", f"within {disk.size} bytes", str(previous))
    return indexes, packed
