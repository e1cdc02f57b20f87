"""The key of a partial whose contents were not known when it was laid out: set in place, and taken back after a crash.

The digest of the dataset's contents has a stand-in in such a key, of the same length, so that nothing in the file moves
when the true one takes its place. What is overwritten is put behind the file's end first: a crash on the way leaves a
partial that `taken_back` makes what it was.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import xxhash

from featurebank.store import _header, _manifest, limits
from featurebank.store._claiming import claim, hidden_file
from featurebank.store._disk import Disk, pieces, storage_error
from featurebank.store._header import Header
from featurebank.store._layout import LIBVER
from featurebank.store._names import is_named
from featurebank.store.errors import ExistsError, InvalidInputError, NotFoundError, StorageError
from featurebank.store.fingerprint import fingerprint, is_provisional
from featurebank.store.stamps import recipe_of

_MAGIC: Final = b"FBKundo\n"
_RANGE: Final = struct.Struct("<QQ")
_DIGEST: Final = 16
_LEAST: Final = 32
_MOST: Final = limits.MANIFEST_BYTES + 4 * limits.HEADER_BYTES
_FILE_SIZE: Final = slice(16, 24)


def identified(disk: Disk, header: Header, key: Mapping[str, Any], provenance: Mapping[str, Any]) -> Header:
    """Gives a partial of a provisional key its key; the header that it has then.

    Until `settled`, the file is longer by what it was.

    Raises:
        InvalidInputError: the keys differ in more than the dataset's digest.
        StorageError: the disk is full or fails; the partial is what it was.
    """
    old = disk.read(header.table.manifest.address, header.table.manifest.nbytes).tobytes()
    before, text = _manifest.salvage(old)["key"], _manifest.encode(key, provenance)
    same_length = len(_manifest.encode(key, {})) == len(_manifest.encode(before, {}))
    if not (is_provisional(before) and recipe_of(before) == recipe_of(key) and same_length):
        raise InvalidInputError(f"{disk.path}: only the digest of the dataset may change, in a provisional key")
    table = replace(header.table, fingerprint=fingerprint(key))
    block = _header.pack(table, len(header.block), header.file_size)
    changes = {0: block, table.manifest.address: text.ljust(len(old))}
    changes |= _hdf5_changes(disk, header, table.fingerprint)
    try:
        _append(disk, header.file_size, {address: len(data) for address, data in changes.items()})
    except StorageError:
        settled(disk, header)
        raise
    for address, data in changes.items():
        disk.write(address, data)
    disk.sync()
    return replace(header, table=table, block=block)


def settled(disk: Disk, header: Header) -> None:
    """What the file was before it was sealed is of no more use."""
    if disk.size > header.file_size:
        disk.truncate(header.file_size)


def taken_back(disk: Disk) -> None:
    """Makes a partial that a crash left on its way from one key to the other what it was before."""
    start = disk.read(0, min(_LEAST, disk.size)).tobytes()
    if len(start) < _LEAST or start[:8] != _header.MAGIC:
        return
    size = int.from_bytes(start[_FILE_SIZE], "little")
    if not size < disk.size <= size + _MOST:
        return
    tail = disk.read(size, disk.size - size).tobytes()
    if not (tail.startswith(_MAGIC) or _MAGIC.startswith(tail) or not tail.strip(b"\0")):
        return
    body, digest = tail[:-_DIGEST], tail[-_DIGEST:]
    if xxhash.xxh3_128_digest(body) == digest:
        at = len(_MAGIC)
        while at < len(body):
            address, length = _RANGE.unpack_from(body, at)
            at += _RANGE.size + length
            disk.write(address, body[at - length : at])
        disk.sync()
    disk.truncate(size)


def check_named(disk: Disk, header: Header) -> None:
    """A set that was sealed and that a crash kept from the name of its key gets it now.

    Raises:
        NotFoundError: it has; there is no partial any more.
    """
    name = f"{header.table.fingerprint[:16]}.h5"
    if header.state != _header.SEALED or is_named(disk.path, header.table.fingerprint):
        return
    if header.sealed_digest(disk) == header.file_digest:
        with contextlib.suppress(ExistsError):
            claim(disk.path, disk.path.with_name(name))
        disk.path.unlink(missing_ok=True)
        raise NotFoundError(f"{disk.path} is sealed, as {name}; look again")


def check_known(disk: Disk, key: Mapping[str, Any]) -> None:
    """Refuses to seal what stands under a provisional key.

    Raises:
        InvalidInputError: it does.
    """
    if is_provisional(key):
        raise InvalidInputError(
            f"{disk.path} must have the key of its contents to be sealed; found a provisional one; give it its "
            f"own with FeatureSetWriter.identify"
        )


def _hdf5_changes(disk: Disk, header: Header, identity: str) -> dict[int, bytes]:
    """Address to bytes of HDF5's metadata once it has another fingerprint: tried on a copy without arrays."""
    import h5py  # type: ignore[import-untyped]

    ranges = [
        (max(first, len(header.block)), last)
        for first, last in header.table.covered(header.file_size, ())
        if last > len(header.block)
    ]
    copy = hidden_file(disk.path.parent)
    try:
        copy.truncate(header.file_size)
        for first, last in ranges:
            copy.write(first, disk.read(first, last - first))
        try:
            with h5py.File(copy.path, "r+", libver=LIBVER, locking=False) as file:
                file.attrs.modify("fingerprint", np.bytes_(identity))
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else OSError(None, str(error))
            raise storage_error(cause, disk.path, "write") from error
        changes: dict[int, bytes] = {}
        for first, last in ranges:
            at = first
            for new, old in zip(pieces(copy, first, last - first), pieces(disk, first, last - first), strict=True):
                if (different := np.flatnonzero(new != old)).size:
                    low, high = int(different[0]), int(different[-1]) + 1
                    changes[at + low] = new[low:high].tobytes()
                at += len(new)
        return changes
    finally:
        copy.path.unlink(missing_ok=True)
        copy.close()


def _append(disk: Disk, end: int, places: Mapping[int, int]) -> None:
    """Puts what stands at some places behind the file's end, durably."""
    parts = [_MAGIC]
    for address, length in places.items():
        parts += [_RANGE.pack(address, length), disk.read(address, length).tobytes()]
    body = b"".join(parts)
    disk.write(end, body + xxhash.xxh3_128_digest(body))
    disk.sync()
