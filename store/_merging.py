"""Feature sets of one store copied into another: verified copies, and nothing that is there is ever replaced."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featurebank.store._claiming import locked_until_named
from featurebank.store._disk import Disk, storage_error
from featurebank.store._opening import open_sealed
from featurebank.store.entries import Entry
from featurebank.store.errors import CorruptError, ExistsError, StoreError
from featurebank.store.verify import check_arrays, verify_copy

__all__ = ["Merged", "copy_verified"]

_PIECE = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What became of one feature set of the other store.

    Attributes:
        source: The file in the other store.
        path: The file in this store.
        result: ``copied``, ``present`` (this store has that fingerprint already) or ``refused``.
        message: Why it was refused.
        note: How a copied set relates to the contents of its dataset that were here.
    """

    source: Path
    path: Path
    result: Literal["copied", "present", "refused"]
    message: str = ""
    note: str = ""


def copy_verified(entry: Entry, target: Path) -> Merged:
    """Copies a sealed set to ``target``: what one descriptor reads is verified, copied, and verified as copied.

    Nothing is written before the whole source has been found sound and the disk has room for it.
    """
    source = entry.path
    try:
        disk, header, _ = open_sealed(source, entry.root)
        assert isinstance(disk, Disk)  # noqa: S101 - for the type checker: entries are local files
        try:
            if header.table.fingerprint != entry.fingerprint:
                raise CorruptError(f"{source} must have the fingerprint {entry.fingerprint}; it was replaced meanwhile")
            check_arrays(disk, header)
            _check_room(target, header.file_size)
            with locked_until_named(target) as hidden:
                _copy(disk, hidden, header.file_size)
                verify_copy(hidden, source, entry.fingerprint)
        finally:
            disk.close()
    except ExistsError:
        return Merged(source=source, path=target, result="present")
    except StoreError as error:
        return Merged(source=source, path=target, result="refused", message=str(error))
    return Merged(source=source, path=target, result="copied")


def _check_room(target: Path, nbytes: int) -> None:
    folder = next(parent for parent in target.parents if parent.is_dir())
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(error, target, "look at") from error
    if nbytes > free:
        raise storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), target, "copy", nbytes)


def _copy(disk: Disk, hidden: Path, nbytes: int) -> None:
    copy = Disk(hidden, writable=True)
    try:
        done = 0
        while done < nbytes:
            try:
                with copy.descriptor() as out, disk.descriptor() as source:
                    sent = os.sendfile(out, source, done, min(_PIECE, nbytes - done))
            except OSError as error:
                raise storage_error(error, hidden, "copy") from error
            if not sent:
                raise CorruptError(f"{disk.path} became shorter while it was copied; it is being changed: merge again")
            done += sent
        copy.sync()
    finally:
        copy.close()
