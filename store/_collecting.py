"""What a store can do without: the leavings of dead runs, and sets that a later one of the same key replaces."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurebank.store._disk import Disk, lock
from featurebank.store._names import final_path
from featurebank.store._opening import read_sealed
from featurebank.store.errors import LockedError, NotFoundError, StoreError

__all__ = ["Garbage", "delete", "leftovers", "superseded"]

_HIDDEN = ".*.layout"


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A file that `FeatureStore.gc` found dispensable.

    Attributes:
        path: The file.
        nbytes: Its size.
        reason: Why it is dispensable.
        deleted: Whether it has been deleted.
    """

    path: Path
    nbytes: int
    reason: str
    deleted: bool = False


def leftovers(root: Path, hours: float) -> Iterator[Garbage]:
    """Layouts and partials that nobody holds and nobody has written to for so many hours."""
    oldest = time.time() - 3600 * hours
    for pattern in (_HIDDEN, "*.h5.partial"):
        for path in sorted(root.glob(f"*/*/*/{pattern}")):
            found = path.lstat()
            if found.st_mtime > oldest or path.is_symlink() or _is_held(path):
                continue
            reason = f"nobody has written to it for {(time.time() - found.st_mtime) / 3600:.0f} h"
            if path.suffix == ".partial" and final_path(path.with_suffix("")).exists():
                reason = "a sealed set of the same key lies beside it"
            yield Garbage(path=path, nbytes=found.st_size, reason=reason)


def superseded(paths: Sequence[Path]) -> Iterator[Garbage]:
    """Of the sealed sets of one folder: those whose key is that of a later one but for the dataset's content."""
    latest: dict[str, tuple[float, Path]] = {}
    keys = {path: _without_content(key) for path in paths if (key := _key(path)) is not None}
    for path in sorted(keys, key=lambda path: (path.stat().st_mtime, path.name)):
        latest[repr(keys[path])] = (path.stat().st_mtime, path)
    for path, key in keys.items():
        if (newest := latest[repr(key)][1]) != path:
            reason = f"{newest.name} has the same key with a later content of the dataset"
            yield Garbage(path=path, nbytes=path.stat().st_size, reason=reason)


def delete(path: Path) -> bool:
    """Deletes a file unless a writer holds it by now; whether it is gone."""
    try:
        disk = Disk(path, writable=path.suffix != ".h5")
        try:
            if path.suffix != ".h5":
                lock(disk)
            path.unlink()
        finally:
            disk.close()
    except NotFoundError:
        return True
    except LockedError:
        return False
    return True


def _is_held(path: Path) -> bool:
    try:
        disk = Disk(path, writable=True)
    except StoreError:
        return True
    try:
        lock(disk)
    except LockedError:
        return True
    finally:
        disk.close()
    return False


def _key(path: Path) -> Mapping[str, Any] | None:
    try:
        _, manifest = read_sealed(path)
    except StoreError:
        return None
    return dict(manifest["key"])


def _without_content(key: Mapping[str, Any]) -> Any:
    dataset = key.get("dataset")
    names = {name: dataset.get(name) for name in ("name", "split")} if isinstance(dataset, Mapping) else dataset
    return sorted({**key, "dataset": names}.items())
