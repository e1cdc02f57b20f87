"""The catalogue: a directory of feature sets, found by dataset, split, backbone and fingerprint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurebank.store._collecting import Garbage, leftovers, superseded
from featurebank.store._collecting import delete as remove
from featurebank.store._disk import Disk
from featurebank.store._header import Header
from featurebank.store._merging import Merged, copy_verified
from featurebank.store._names import decode_component, encode_component, not_found, partial_path
from featurebank.store._opening import read_partial, read_sealed, string_in
from featurebank.store._records import Output
from featurebank.store.errors import (
    AmbiguousError,
    CorruptError,
    InvalidInputError,
    NotSealedError,
    StoreError,
)
from featurebank.store.fingerprint import differences
from featurebank.store.reader import FeatureSet, Verification
from featurebank.store.verify import VerifyReport, reported, was_checked

__all__ = ["Entry", "FeatureStore", "State"]

State: TypeAlias = Literal["sealed", "partial", "damaged"]
_FILE = re.compile(r"([0-9a-f]{16})\.h5(\.partial)?")
_PLACES = (("dataset", "name"), ("dataset", "split"), ("backbone", "name"))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a store.

    Attributes:
        dataset: From the folders.
        split: From the folders.
        backbone: From the folders.
        fingerprint: 64 hex digits, or the 16 of the file name where the file cannot be read.
        state: Sealed, partial, or damaged.
        n_rows: 0 where the file cannot be read.
        outputs: Empty where the file cannot be read.
        nbytes: The size of the file.
        path: The file.
        message: What is wrong with a damaged file.
        checked: Whether the file could be read; where not, ``message`` says why and nothing is known of it.
    """

    dataset: str
    split: str
    backbone: str
    fingerprint: str
    state: State
    n_rows: int = 0
    outputs: tuple[Output, ...] = ()
    nbytes: int = 0
    path: Path
    message: str = ""
    checked: bool = True


class FeatureStore:
    """A directory of feature sets: ``<root>/<dataset>/<split>/<backbone>/<16 hex of the fingerprint>.h5``.

    Args:
        root: The directory; it need not exist until something is written.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def path_for(self, dataset: str, split: str, backbone: str, fingerprint: str) -> Path:
        """Where the feature set with that fingerprint belongs.

        Raises:
            InvalidInputError: a name that cannot name a folder, or a path that would leave the store.

        >>> FeatureStore("features").path_for("cifar10", "test", "timm/resnet18", "0123456789abcdef" * 4).as_posix()
        'features/cifar10/test/timm%2Fresnet18/0123456789abcdef.h5'
        """
        if not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
            raise InvalidInputError(f"a fingerprint must be 64 hex digits; found {fingerprint!r}")
        names = (("dataset", dataset), ("split", split), ("backbone", backbone))
        path = self.root.joinpath(*(encode_component(name, what) for what, name in names), f"{fingerprint[:16]}.h5")
        if not self._is_inside(path):
            raise InvalidInputError(
                f"{path} must lie within {self.root}; a link leads to {os.path.realpath(path)}; remove it"
            )
        return path

    def ls(self, dataset: str | None = None, backbone: str | None = None) -> list[Entry]:
        """Every feature set and partial there is, sorted; reads headers only.

        Args:
            dataset: Only this dataset, ``"name"`` or ``"name/split"``.
            backbone: Only this backbone.
        """
        return [
            self._entry(names, path)
            for names, path in self._files()
            if dataset in (None, names[0], f"{names[0]}/{names[1]}") and backbone in (None, names[2])
        ]

    def open(
        self, dataset: str, backbone: str, *, fingerprint: str | None = None, verify: Verification = "header"
    ) -> FeatureSet:
        """Opens the feature set of a backbone on a split.

        Args:
            dataset: ``"dataset/split"``.
            backbone: The backbone's name.
            fingerprint: The fingerprint or its beginning; needed only where there are several.
            verify: Whether values are hashed before they are handed out; see `FeatureSet`.

        Raises:
            NotFoundError: nothing matches; the text has the nearest names.
            AmbiguousError: several match; the text has their fingerprints and where their keys differ.
            NotSealedError: there is only a partial.
            CorruptError: what matches is damaged.
        """
        name, separator, split = dataset.rpartition("/")
        if not separator:
            raise InvalidInputError(f"a dataset must be given as 'dataset/split'; found {dataset!r}")
        files = list(self._files())
        found = [(names, path) for names, path in files if names[:2] == (name, split)]
        if not found:
            raise not_found(str(self.root), "dataset", dataset, (f"{names[0]}/{names[1]}" for names, _ in files))
        matching = [self._entry(names, path) for names, path in found if names[2] == backbone]
        if not matching:
            raise not_found(f"{self.root}, {dataset}", "backbone", backbone, (names[2] for names, _ in found))
        if fingerprint is not None:
            known = [entry.fingerprint for entry in matching]
            # A damaged file is known by the beginning of its fingerprint only.
            matching = [
                e for e in matching if e.fingerprint.startswith(fingerprint) or fingerprint.startswith(e.fingerprint)
            ]
            if not matching:
                raise not_found(f"{self.root}, {dataset}, {backbone}", "fingerprint", fingerprint, known)
        return FeatureSet(_only(matching).path, verify)

    def find(self, fingerprint: str) -> FeatureSet | None:
        """The sealed feature set with that fingerprint (64 or its first 16 hex digits), if there is one."""
        for _, path in self._files():
            if path.name == f"{fingerprint[:16]}.h5" and self._is_inside(path):
                feature_set = FeatureSet(path)
                if feature_set.fingerprint.startswith(fingerprint):
                    return feature_set
                feature_set.close()
        return None

    def by_fingerprint(self, fingerprint: str) -> FeatureSet:
        """The one sealed feature set whose fingerprint begins so, wherever in the store it lies.

        Raises:
            NotFoundError: there is none.
            AmbiguousError: there are several; the text lists them.
        """
        sealed = {entry.fingerprint: entry.path for entry in self.ls() if entry.state == "sealed"}
        matching = [known for known in sealed if known.startswith(fingerprint)]
        if not matching:
            raise not_found(str(self.root), "sealed set of fingerprint", fingerprint, sealed)
        if len(matching) > 1:
            raise AmbiguousError(f"{self.root}: several fingerprints begin with {fingerprint}: {', '.join(matching)}")
        return FeatureSet(sealed[matching[0]])

    def state(
        self, dataset: str, split: str, backbone: str, fingerprint: str
    ) -> Literal["sealed", "partial", "absent"]:
        """Whether a feature set is there, going by its file's name alone."""
        path = self.path_for(dataset, split, backbone, fingerprint)
        if path.is_file():
            return "sealed"
        return "partial" if partial_path(path).is_file() else "absent"

    def verify(self) -> list[VerifyReport]:
        """Verifies every file that is not a partial; what is wrong with one is in its report and stops no other."""
        return [_verified(entry) for entry in self.ls() if entry.path.suffix == ".h5"]

    def merge(self, other: FeatureStore) -> list[Merged]:
        """Copies every sealed set of another store that this one has not; each copy is verified before it is named.

        What is here is never replaced, and partials stay where they are. What cannot be copied is said in its
        `Merged` and stops no other; after an interruption, merging again goes on with the next.
        """
        merged = []
        for entry in other.ls():
            if entry.path.suffix != ".h5":
                continue
            if entry.message:
                merged.append(Merged(source=entry.path, path=entry.path, result="refused", message=entry.message))
                continue
            target = self.path_for(entry.dataset, entry.split, entry.backbone, entry.fingerprint)
            present = Merged(source=entry.path, path=target, result="present")
            merged.append(present if target.exists() else copy_verified(entry.path, target))
        return merged

    def gc(self, *, delete: bool = False, hours: float = 24) -> list[Garbage]:
        """What the store can do without: leavings of dead runs, and sets that a later one supersedes.

        A partial or layout is one that no writer holds and nobody has written to for ``hours``. A sealed set is
        superseded by a later file of the same key but for the dataset's content: the dataset has grown or changed.

        Args:
            delete: Delete what is found; else only list it.
            hours: How long nobody must have written to a partial.
        """
        folders: dict[Path, list[Path]] = {}
        for _, path in self._files():
            if path.suffix == ".h5" and self._is_inside(path):
                folders.setdefault(path.parent, []).append(path)
        found = [garbage for garbage in leftovers(self.root, hours) if self._is_inside(garbage.path)]
        for paths in folders.values():
            found += superseded(paths)
        return [replace(garbage, deleted=remove(garbage.path)) for garbage in found] if delete else found

    def same_content(self, first: str, second: str) -> list[tuple[str, str]]:
        """The records whose content stands in both of two splits: their ids in the first and in the second.

        A record of the second split is listed once, with the first record of the other split that has its content.

        Args:
            first: ``"dataset/split"``.
            second: Another; the set with the most rows is taken of each.

        Raises:
            NotFoundError: a split has no sealed set; the text has the nearest names.
        """
        ids, hashes = zip(*(self._contents(dataset) for dataset in (first, second)), strict=True)
        content, rows = np.unique(hashes[0], return_index=True)
        place = np.searchsorted(content, hashes[1]).clip(max=len(content) - 1)
        shared = np.flatnonzero(content[place] == hashes[1])
        return [(str(ids[0][rows[place[row]]]), str(ids[1][row])) for row in shared.tolist()]

    def _contents(self, dataset: str) -> tuple[NDArray[np.str_], NDArray[Any]]:
        sealed = [entry for entry in self.ls() if entry.state == "sealed"]
        matching = [entry for entry in sealed if f"{entry.dataset}/{entry.split}" == dataset]
        if not matching:
            raise not_found(str(self.root), "dataset", dataset, (f"{e.dataset}/{e.split}" for e in sealed))
        with FeatureSet(max(matching, key=lambda entry: entry.n_rows).path) as feature_set:
            # As pairs of integers, which sort and compare whole; strings would lose their last zeros.
            return feature_set.ids, np.ascontiguousarray(feature_set.content_hash).view("<u8,<u8").ravel()

    def _files(self) -> Iterator[tuple[tuple[str, str, str], Path]]:
        for path in sorted(self.root.glob("*/*/*/*")):
            if not _FILE.fullmatch(path.name):
                continue
            try:
                dataset, split, backbone = (decode_component(part) for part in path.parts[-4:-1])
            except InvalidInputError:
                # Folders that the store did not make may lie beside its own.
                continue
            yield (dataset, split, backbone), path

    def _is_inside(self, path: Path) -> bool:
        # Unlike Path.resolve, it takes a link to itself for what it is.
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def _entry(self, names: tuple[str, str, str], path: Path) -> Entry:
        entry = Entry(
            dataset=names[0], split=names[1], backbone=names[2], fingerprint=path.name[:16], state="damaged", path=path
        )
        try:
            if not self._is_inside(path):
                raise CorruptError(
                    f"{path} must lie within {self.root}; a link leads to {os.path.realpath(path)}; remove the link"
                )
            header, manifest = _read(path)
            _check_names(names, path, manifest["key"])
        except StoreError as error:
            return replace(entry, message=str(error), checked=was_checked(error))
        return replace(
            entry,
            fingerprint=header.table.fingerprint,
            state="partial" if path.suffix == ".partial" else "sealed",
            n_rows=header.table.n_rows,
            outputs=header.table.described(),
            nbytes=header.file_size,
        )


def _read(path: Path) -> tuple[Header, dict[str, Any]]:
    if path.suffix != ".partial":
        return read_sealed(path)
    disk = Disk(path)
    try:
        return read_partial(disk)
    finally:
        disk.close()


def _check_names(names: tuple[str, str, str], path: Path, key: dict[str, Any]) -> None:
    expected = tuple(string_in(key, *place) for place in _PLACES)
    if names != expected:
        raise CorruptError(
            f"{path} must lie in the folders of its key, {' / '.join(expected)}; found {' / '.join(names)}: "
            f"it was moved; move it back"
        )


def _only(matching: Sequence[Entry]) -> Entry:
    sealed = [entry for entry in matching if entry.state == "sealed"]
    if len(sealed) == 1:
        return sealed[0]
    if not sealed:
        for entry in matching:
            if entry.state == "damaged":
                raise CorruptError(entry.message)
        raise NotSealedError(f"{matching[0].path} is still a partial; resume and seal it first")
    keys = [_read(entry.path)[1]["key"] for entry in sealed]
    lines = []
    for entry, key in zip(sealed[1:], keys[1:], strict=True):
        lines += [f"  {sealed[0].fingerprint[:16]} and {entry.fingerprint[:16]} differ in:"]
        lines += [f"    {field}: {left!r} and {right!r}" for field, left, right in differences(keys[0], key)]
    first = sealed[0]
    raise AmbiguousError(
        f"{first.path.parent} must have one feature set for {first.dataset}/{first.split}, {first.backbone}; "
        f"found {len(sealed)}; give one of their fingerprints, {', '.join(e.fingerprint[:16] for e in sealed)}:\n"
        + "\n".join(lines)
    )


def _verified(entry: Entry) -> VerifyReport:
    if not entry.message:
        return reported(entry.path, entry.fingerprint)
    return VerifyReport(
        path=entry.path, fingerprint=entry.fingerprint, chunks={}, error=entry.message, checked=entry.checked
    )
