"""Opening a file: all checks that come before anything in it is believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from featurebank.store import _header, _manifest
from featurebank.store._disk import Disk, Readable
from featurebank.store._header import Header
from featurebank.store._names import check_file_name, partial_path
from featurebank.store._remote import RemoteFile, Url
from featurebank.store.errors import CorruptError, NotFoundError, NotSealedError
from featurebank.store.fingerprint import fingerprint

__all__ = ["open_sealed", "read_partial", "string_in"]


def open_sealed(path: Path | Url) -> tuple[Readable, Header, dict[str, Any]]:
    """Opens a sealed file and checks all that its file digest covers, the manifest, and the file name.

    Raises:
        StoreError: as `FeatureSet` says.
    """
    try:
        disk: Readable = RemoteFile(path) if isinstance(path, Url) else Disk(path)
    except NotFoundError:
        if not isinstance(path, Url) and partial_path(path).exists():
            raise NotSealedError(
                f"{path} is not sealed yet: there is {path.name}.partial; resume and seal it first"
            ) from None
        raise
    try:
        header = _header.read_header(disk)
        if header.state != _header.SEALED:
            raise NotSealedError(f"{path} must be sealed to be read; it is still a partial; resume and seal it first")
        if (found := header.sealed_digest(disk)) != header.file_digest:
            raise CorruptError(
                f"{path} is damaged: the file digest must be {header.file_digest.hex()}; found {found.hex()}; "
                f"restore it from a copy or extract it again"
            )
        manifest = _manifest_of(disk, header, _manifest.decode)
        check_file_name(path, header.table.fingerprint, CorruptError)
    except BaseException:
        disk.close()
        raise
    return disk, header, manifest


def read_partial(disk: Disk) -> tuple[Header, dict[str, Any]]:
    """The header and manifest of a partial; a provenance that was cut short in writing is dropped.

    Raises:
        CorruptError: the header or the key is damaged.
    """
    header = _header.read_header(disk)
    manifest = _manifest_of(disk, header, _manifest.salvage)
    check_file_name(disk.path, header.table.fingerprint, CorruptError)
    return header, manifest


def string_in(key: dict[str, Any], part: str, field: str) -> str:
    """A string of a key by its place, such as ``dataset``, ``name``; empty where there is none."""
    inner = key.get(part)
    value = inner.get(field) if isinstance(inner, dict) else None
    return value if isinstance(value, str) else ""


def _manifest_of(disk: Readable, header: Header, decode: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
    array = header.table.manifest
    try:
        manifest = decode(disk.read(array.address, array.nbytes).tobytes())
        found = fingerprint(manifest["key"])
    except (ValueError, RecursionError) as error:
        found = f"no readable key ({error})"
    if found != header.table.fingerprint:
        raise CorruptError(
            f"{disk.path} is damaged: its key must have the fingerprint {header.table.fingerprint}; found {found}; "
            f"delete it and extract again"
        )
    return manifest
