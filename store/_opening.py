"""Opening a file: all checks that come before anything in it is believed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import _header, _manifest
from featurebank.store._disk import Disk, Readable, reading
from featurebank.store._header import Header
from featurebank.store._names import check_file_name, partial_path
from featurebank.store._remote import RemoteFile
from featurebank.store._table import Table
from featurebank.store.addresses import Url
from featurebank.store.errors import CorruptError, NotFoundError, NotSealedError
from featurebank.store.fingerprint import fingerprint

_FRONT = 80 << 10


class _ReadAhead:
    """A file whose first bytes, nearly all that opening needs, are read at once."""

    def __init__(self, file: Readable) -> None:
        self.path = file.path
        self.size = file.size
        self.close = file.close
        self._file = file
        self._front = file.read(0, min(_FRONT, self.size))

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """``nbytes`` bytes from ``address`` on."""
        if address + nbytes <= len(self._front):
            return self._front[address : address + nbytes]
        return self._file.read(address, nbytes)


def open_within(path: Path, root: Path | None, *, writable: bool = False) -> Disk:
    """Opens a file that must lie in a store's folder, whatever links lead to it.

    What was opened is looked at, not what the path said before, so that nothing can be put in its place meanwhile.

    Args:
        path: The file.
        root: The store's folder; ``None`` where the file may lie anywhere.
        writable: Whether it is opened for writing too.

    Raises:
        CorruptError: a link leads out of the folder.
        StoreError: as `Disk`.
    """
    if root is None:
        return Disk(path, writable=writable)
    # Unlike Path.resolve, it takes a link to itself for what it is.
    real = Path(os.path.realpath(path))
    outside = CorruptError(f"{path} must lie within {root}; a link leads to {real}; remove the link")
    if not real.is_relative_to(os.path.realpath(root)):
        raise outside
    disk = Disk(path, writable=writable)
    try:
        with disk.descriptor() as fd:
            same = os.path.samestat(os.fstat(fd), real.lstat())
    except OSError:
        same = False
    if not same:
        disk.close()
        raise outside
    return disk


def open_sealed(path: Path | Url, within: Path | None = None) -> tuple[Readable, Header, bytes]:
    """Opens a sealed file and checks all that its file digest covers, the key, and the file name.

    Args:
        path: The file or its URL.
        within: The store's folder that a file must lie in, if any.

    Returns:
        the file, its header, and the manifest's text for `manifest_of`.

    Raises:
        StoreError: as `FeatureSet` says.
    """
    with reading(path):
        return _open_sealed(path, within)


def _open_sealed(path: Path | Url, within: Path | None) -> tuple[Readable, Header, bytes]:
    try:
        disk: Readable = RemoteFile(path) if isinstance(path, Url) else open_within(path, within)
    except NotFoundError:
        if not isinstance(path, Url) and partial_path(path).exists():
            raise NotSealedError(
                f"{path} is not sealed yet: there is {path.name}.partial; resume and seal it first"
            ) from None
        raise
    try:
        file = _ReadAhead(disk)
        header = _header.read_header(file)
        if header.state != _header.SEALED:
            raise NotSealedError(f"{path} must be sealed to be read; it is still a partial; resume and seal it first")
        if (found := header.sealed_digest(file)) != header.file_digest:
            raise CorruptError(
                f"{path} is damaged: the file digest must be {header.file_digest.hex()}; found {found.hex()}; "
                f"restore it from a copy or extract it again"
            )
        array = header.table.manifest
        text = file.read(array.address, array.nbytes).tobytes()
        if _manifest.key_digest(text) != header.table.fingerprint:
            manifest_of(path, header.table, text)
        check_file_name(path, header.table.fingerprint, CorruptError)
    except BaseException:
        disk.close()
        raise
    return disk, header, text


def read_sealed(path: Path, within: Path | None = None) -> tuple[Header, dict[str, Any]]:
    """The header and manifest of a sealed file; raises as `open_sealed`."""
    file, header, text = open_sealed(path, within)
    file.close()
    return header, manifest_of(path, header.table, text)


def manifest_of(
    path: Path | Url, table: Table, text: bytes, decode: Callable[[bytes], dict[str, Any]] = _manifest.decode
) -> dict[str, Any]:
    """The manifest, decoded; its key must have the table's fingerprint.

    Raises:
        CorruptError: it has another one, or cannot be read.
    """
    try:
        with reading(path):
            manifest = decode(text)
            found = fingerprint(manifest["key"])
    except ValueError as error:
        found = f"no readable key ({error.__cause__ or error})"
    if found != table.fingerprint:
        raise CorruptError(
            f"{path} is damaged: its key must have the fingerprint {table.fingerprint}; found {found}; "
            f"delete it and extract again"
        )
    return manifest


def read_partial(disk: Disk) -> tuple[Header, dict[str, Any]]:
    """The header and manifest of a partial; a provenance that was cut short in writing is dropped.

    Raises:
        CorruptError: the header or the key is damaged.
    """
    with reading(disk.path):
        header = _header.read_header(disk)
        array = header.table.manifest
        text = disk.read(array.address, array.nbytes).tobytes()
        manifest = manifest_of(disk.path, header.table, text, _manifest.salvage)
        check_file_name(disk.path, header.table.fingerprint, CorruptError)
        return header, manifest


def string_in(key: dict[str, Any], part: str, field: str) -> str:
    """A string of a key by its place, such as ``dataset``, ``name``; empty where there is none."""
    inner = key.get(part)
    value = inner.get(field) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else ""
