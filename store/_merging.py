"""Feature sets of one store copied into another: verified copies, and nothing that is there is ever replaced."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featurebank.store._claiming import named_when_complete
from featurebank.store._disk import Disk, storage_error
from featurebank.store._opening import open_sealed
from featurebank.store.entries import Entry
from featurebank.store.errors import CorruptError, ExistsError, StoreError
from featurebank.store.verify import check_arrays, verify_copy

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


def merged(entry: Entry, place: Callable[[str, str, str, str], Path], here: Sequence[Entry]) -> Merged:
    """Copies a sealed set: what one descriptor reads is verified, copied, and verified as copied.

    Nothing is written before the whole source has been found sound and the disk has room for it.

    Args:
        entry: The set in the other store.
        place: Dataset, split, backbone and fingerprint to where a set lies in this one.
        here: What was in this one before.
    """
    source = entry.path
    if entry.message:
        return Merged(source=source, path=source, result="refused", message=entry.message)
    target = place(entry.dataset, entry.split, entry.backbone, entry.fingerprint)
    try:
        if not target.exists():
            _copy_verified(entry, target)
            return Merged(source=source, path=target, result="copied", note=_age(entry, here))
    except ExistsError:
        pass
    except StoreError as error:
        return Merged(source=source, path=target, result="refused", message=str(error), note=_age(entry, here))
    return Merged(source=source, path=target, result="present")


def _copy_verified(entry: Entry, target: Path) -> None:
    disk, header, _ = open_sealed(entry.path, entry.root)
    assert isinstance(disk, Disk)  # noqa: S101 - for the type checker: entries are local files
    with disk:
        if header.table.fingerprint != entry.fingerprint:
            raise CorruptError(f"{entry.path} must have the fingerprint {entry.fingerprint}; it was replaced meanwhile")
        check_arrays(disk, header)
        _check_room(target, header.file_size)
        with named_when_complete(target, locked=True) as hidden:
            _copy(disk, hidden, header.file_size)
            verify_copy(hidden, entry.path, entry.fingerprint)


def _check_room(target: Path, nbytes: int) -> None:
    folder = next(parent for parent in target.parents if parent.is_dir())
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise storage_error(error, target, "look at") from error
    if nbytes > free:
        raise storage_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), target, "copy", nbytes)


def _copy(disk: Disk, hidden: Path, nbytes: int) -> None:
    done = 0
    with Disk(hidden, writable=True) as copy:
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


def _age(entry: Entry, here: Sequence[Entry]) -> str:
    """How a copied set relates to the contents of its dataset that are here."""
    same = [other for other in here if other.place == entry.place]
    if not same:
        return ""
    newest = max(same, key=lambda other: other.sealed_at)
    than = f"content of the dataset than {newest.fingerprint[:16]}, which is here"
    if not entry.sealed_at or entry.sealed_at == newest.sealed_at:
        return f"another {than}; the newer is not known"
    return f"a newer {than}: it is read from now on" if entry.sealed_at > newest.sealed_at else f"an older {than}"
