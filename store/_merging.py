"""Feature sets of one store copied into another: verified copies, and nothing that is there is ever replaced."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from featurebank.store._disk import Disk, named_when_complete, storage_error
from featurebank.store.errors import ExistsError, StoreError
from featurebank.store.verify import verify_copy

__all__ = ["Merged", "copy_verified"]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What became of one feature set of the other store.

    Attributes:
        source: The file in the other store.
        path: The file in this store.
        result: ``copied``, ``present`` (this store has that fingerprint already) or ``refused``.
        message: Why it was refused.
    """

    source: Path
    path: Path
    result: Literal["copied", "present", "refused"]
    message: str = ""


def copy_verified(source: Path, target: Path) -> Merged:
    """Copies a sealed file to ``target``; the copy is verified before it has that name."""
    try:
        with named_when_complete(target) as hidden:
            try:
                shutil.copyfile(source, hidden)
            except OSError as error:
                raise storage_error(error, target, "copy") from error
            verify_copy(hidden, source)
            disk = Disk(hidden, writable=True)
            try:
                disk.sync()
            finally:
                disk.close()
    except ExistsError:
        return Merged(source=source, path=target, result="present")
    except StoreError as error:
        return Merged(source=source, path=target, result="refused", message=str(error))
    return Merged(source=source, path=target, result="copied")
