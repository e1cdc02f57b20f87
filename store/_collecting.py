"""What a store can do without: the leavings of dead runs, and sets whose dataset has a later content.

A set is deleted only where it is certain to be of no more use: the store itself sealed it, and sealed another one later
that differs in the dataset's content alone, and no source of data gave its content when it was last looked at.
Everything else is listed with the reason why it is kept. No file's time has a say in that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurebank.store._disk import Disk, lock
from featurebank.store._names import final_path
from featurebank.store._noted import dataset_of
from featurebank.store.entries import Entry
from featurebank.store.errors import LockedError, NotFoundError, StoreError

_HIDDEN = ".*.layout"


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """A file that `FeatureStore.gc` found dispensable.

    Attributes:
        path: The file.
        nbytes: Its size.
        reason: Why it is dispensable.
        kept: Why it is not deleted all the same; empty where nothing speaks against it.
        deleted: Whether it has been deleted.
    """

    path: Path
    nbytes: int
    reason: str
    kept: str = ""
    deleted: bool = False


def leftovers(root: Path, hours: float) -> Iterator[Garbage]:
    """Layouts and partials that nobody holds and nobody has written to for so many hours."""
    oldest = time.time() - 3600 * hours
    for pattern in (_HIDDEN, "*.h5.partial"):
        for path in sorted(root.glob(f"*/*/*/{pattern}")):
            try:
                found = path.lstat()
            except OSError:
                # Sealed, resumed or deleted by now.
                continue
            if found.st_mtime > oldest or path.is_symlink() or _is_held(path):
                continue
            reason = f"nobody has written to it for {(time.time() - found.st_mtime) / 3600:.0f} h"
            if path.suffix == ".partial" and final_path(path.with_suffix("")).exists():
                reason = "a sealed set of the same key lies beside it"
            yield Garbage(path=path, nbytes=found.st_size, reason=reason)


def superseded(sealed: Sequence[Entry], noted: Mapping[str, set[str]]) -> Iterator[Garbage]:
    """Of the sealed sets of a store, those whose dataset has, or may have, a later content.

    Args:
        sealed: The sets.
        noted: What the data gave when they were last looked at; see `featurebank.store._noted`.
    """
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in sealed:
        groups.setdefault(entry.lineage, []).append(entry)
    for group in groups.values():
        if len(group) > 1:
            yield from _superseded(group, noted)


def _superseded(group: Sequence[Entry], noted: Mapping[str, set[str]]) -> Iterator[Garbage]:
    newest = max(group, key=lambda entry: entry.sealed_at)
    try:
        contents = {entry.path: _content(entry) for entry in group}
        foreign = {entry.path for entry in group if not entry.is_own}
    except StoreError:
        # Damaged or gone since it was listed: look again another time.
        return
    given = noted.get(contents[newest.path][0])
    for entry in group:
        if entry is newest or (given and contents[entry.path][1] in given):
            continue
        reason, kept = f"{newest.path.name} has the same key with a later content of the dataset", ""
        if not entry.sealed_at or entry.sealed_at == newest.sealed_at:
            reason = f"{newest.path.name} has the same key with another content of the dataset"
            kept = "which of them is the later one is not known"
        elif foreign & {entry.path, newest.path}:
            kept = f"another store made {'this one' if entry.path in foreign else 'that one'}, by its own clock"
        elif given and contents[newest.path][1] not in given:
            kept = "the data gave neither content when they were last looked at"
        yield Garbage(path=entry.path, nbytes=entry.nbytes, reason=reason, kept=kept)


def _content(entry: Entry) -> tuple[str, Any]:
    """Of which dataset, and which of its contents."""
    with entry.open() as feature_set:
        dataset = feature_set.key["dataset"]
    return dataset_of(dataset), dataset["digest"]


def delete(path: Path) -> bool:
    """Deletes a file unless a writer holds it by now; whether it is gone."""
    try:
        with Disk(path, writable=path.suffix != ".h5") as disk:
            if path.suffix != ".h5":
                lock(disk)
            path.unlink(missing_ok=True)
    except NotFoundError:
        return True
    except LockedError:
        return False
    return True


def _is_held(path: Path) -> bool:
    try:
        with Disk(path, writable=True) as disk:
            lock(disk)
    except StoreError:
        return True
    return False
