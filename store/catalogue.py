"""The catalogue: a directory of feature sets, found by dataset, split, backbone and fingerprint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.store._collecting import Garbage, leftovers, superseded
from featurebank.store._collecting import delete as remove
from featurebank.store._listing import entry_of, named
from featurebank.store._merging import Merged, copy_verified
from featurebank.store._names import decode_component, encode_component, not_found, partial_path
from featurebank.store._noted import note, noted
from featurebank.store.entries import Entry, described, newest_contents, shortest
from featurebank.store.errors import (
    AmbiguousError,
    CorruptError,
    InvalidInputError,
    NotSealedError,
    StoreError,
)
from featurebank.store.reader import FeatureSet, Verification
from featurebank.store.verify import VerifyReport, reported

__all__ = ["FeatureStore"]

_FILE = re.compile(r"([0-9a-f]{16})\.h5(\.partial)?")


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
            backbone: Only this backbone, by its name or by what it is called among those of its name.
        """
        files = list(self._files())
        wanted = {
            names[2]
            for names, _ in files
            if dataset in (None, names[0], f"{names[0]}/{names[1]}")
            and (backbone in (None, names[2]) or str(backbone).startswith(f"{names[2]}["))
        }
        entries = named([entry_of(names, path, self.root) for names, path in files if names[2] in wanted])
        return [
            entry
            for entry in entries
            if dataset in (None, entry.dataset, f"{entry.dataset}/{entry.split}")
            and backbone in (None, entry.backbone, entry.name)
        ]

    def open(
        self, dataset: str, backbone: str, *, fingerprint: str | None = None, verify: Verification = "header"
    ) -> FeatureSet:
        """Opens the feature set of a backbone on a split.

        Where several differ in nothing but the content of the dataset, because it has grown, the newest is opened: the
        one that was sealed last. The set's ``older`` has the fingerprints of the others, and a line of the log says so.

        Args:
            dataset: ``"dataset/split"``.
            backbone: The backbone's name, or what it is called among those of its name.
            fingerprint: The fingerprint or its beginning; needed where sets of several recipes match, or to open an
                older content of the dataset.
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
        found = list(self._files(name, split))
        if not found:
            raise not_found(
                str(self.root), "dataset", dataset, (f"{names[0]}/{names[1]}" for names, _ in self._files())
            )
        matching = [entry_of(names, path, self.root) for names, path in found if names[2] == backbone]
        if len({entry.network for entry in matching}) != 1:
            called = self.ls(dataset, backbone)
            matching = [entry for entry in called if entry.name == backbone] or matching
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
            return _only(matching).open(verify)
        entry = _only(newest_contents(matching) or matching)
        opened = entry.open(verify)
        opened.older = tuple(e.fingerprint for e in matching if e.state == "sealed" and e.path != entry.path)
        return opened

    def find(self, fingerprint: str) -> FeatureSet | None:
        """The sealed feature set with that fingerprint (64 or its first 16 hex digits), if there is one."""
        damaged: StoreError | None = None
        for _, path in self._files():
            if path.name == f"{fingerprint[:16]}.h5" and self._is_inside(path):
                try:
                    feature_set = FeatureSet(path, within=self.root)
                except StoreError as error:
                    # Another of that name may be whole.
                    damaged = error
                    continue
                if feature_set.fingerprint.startswith(fingerprint):
                    return feature_set
                feature_set.close()
        if damaged is not None:
            raise damaged
        return None

    def by_fingerprint(self, fingerprint: str) -> FeatureSet:
        """The one sealed feature set whose fingerprint begins so, wherever in the store it lies.

        Raises:
            NotFoundError: there is none.
            AmbiguousError: there are several; the text lists them.
        """
        sealed = {entry.fingerprint: entry for entry in self.ls() if entry.state == "sealed"}
        matching = [known for known in sealed if known.startswith(fingerprint)]
        if not matching:
            raise not_found(str(self.root), "sealed set of fingerprint", fingerprint, sealed)
        if len(matching) > 1:
            names = shortest(sealed[known] for known in matching).values()
            raise AmbiguousError(f"{self.root}: several fingerprints begin with {fingerprint!r}: {', '.join(names)}")
        return sealed[matching[0]].open()

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
        """Copies every sealed set of another store that this one has not, verified before and after.

        What is here is never replaced, and partials stay where they are. What cannot be copied is said in its
        `Merged` and stops no other; after an interruption, merging again goes on with the next.
        """
        merged = []
        here = [entry for entry in self.ls() if entry.state == "sealed"]
        for entry in other.ls():
            if entry.path.suffix != ".h5":
                continue
            if entry.message:
                merged.append(Merged(source=entry.path, path=entry.path, result="refused", message=entry.message))
                continue
            target = self.path_for(entry.dataset, entry.split, entry.backbone, entry.fingerprint)
            present = Merged(source=entry.path, path=target, result="present")
            merged.append(present if target.exists() else replace(copy_verified(entry, target), note=_age(entry, here)))
        return merged

    def gc(self, *, delete: bool = False, hours: float = 24) -> list[Garbage]:
        """What the store can do without: leavings of dead runs, and sets that a later one supersedes.

        A partial or layout is one that no writer holds and nobody has written to for ``hours``. A sealed set is
        superseded by one that was sealed later, of the same key but for the dataset's content: the dataset has grown
        or changed. Sets are deleted only where this store has sealed both and the data did not give the earlier content
        when they were last looked at; others are listed, with the reason why they are kept.

        Args:
            delete: Delete what is found and not kept; else only list it.
            hours: How long nobody must have written to a partial.
        """
        found = [garbage for garbage in leftovers(self.root, hours) if self._is_inside(garbage.path)]
        found += superseded([entry for entry in self.ls() if entry.state == "sealed"], noted(self.root))
        if not delete:
            return found
        return [garbage if garbage.kept else replace(garbage, deleted=remove(garbage.path)) for garbage in found]

    def note_content(self, source: str, dataset: Mapping[str, Any]) -> None:
        """Notes which content a source of data gives now, so that `gc` keeps the sets that have it.

        Args:
            source: Tells apart the sources that share a dataset's name, such as two folders; only its hash is kept.
            dataset: The dataset's part of the key: name, split, digest and whatever else is in it.
        """
        note(self.root, source, dataset)

    def same_content(self, first: str, second: str) -> list[tuple[str, str]]:
        """The records whose content stands in both of two splits: their ids in the first and in the second.

        A record of the second split is listed once, with the first record of the other split that has its content.
        Records that could not be read have no content.

        Args:
            first: ``"dataset/split"``.
            second: Another; of each, the set with the most rows is taken, of the newest contents of the dataset.

        Raises:
            NotFoundError: a split has no sealed set; the text has the nearest names.
        """
        ids, hashes = zip(*(self._contents(dataset) for dataset in (first, second)), strict=True)
        content, rows = np.unique(hashes[0], return_index=True)
        if not len(content):
            return []
        place = np.searchsorted(content, hashes[1]).clip(max=len(content) - 1)
        shared = np.flatnonzero(content[place] == hashes[1])
        return [(str(ids[0][rows[place[row]]]), str(ids[1][row])) for row in shared.tolist()]

    def _contents(self, dataset: str) -> tuple[NDArray[np.str_], NDArray[Any]]:
        """The ids and content hashes of the records that could be read."""
        sealed = [entry for entry in self.ls() if entry.state == "sealed"]
        matching = [entry for entry in sealed if f"{entry.dataset}/{entry.split}" == dataset]
        if not matching:
            raise not_found(str(self.root), "dataset", dataset, (f"{e.dataset}/{e.split}" for e in sealed))
        with max(newest_contents(matching), key=lambda entry: entry.n_rows).open() as feature_set:
            known = feature_set.content_hash.any(axis=1)
            # As pairs of integers, which sort and compare whole; strings would lose their last zeros.
            hashes = np.ascontiguousarray(feature_set.content_hash[known]).view("<u8,<u8").ravel()
            return feature_set.ids[known], hashes

    def _files(self, *names: str) -> Iterator[tuple[tuple[str, str, str], Path]]:
        """The files of a store, or of a dataset and split alone, whose folder is all that is looked into."""
        try:
            folder = self.root.joinpath(*(encode_component(name, "folder") for name in names))
        except InvalidInputError:
            return
        for path in sorted(folder.glob("/".join("*" * (4 - len(names))))):
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


def _only(matching: Sequence[Entry]) -> Entry:
    sealed = [entry for entry in matching if entry.state == "sealed"]
    if len(sealed) == 1:
        return sealed[0]
    if not sealed:
        for entry in matching:
            if entry.state == "damaged":
                raise CorruptError(entry.message)
        raise NotSealedError(f"{matching[0].path} is still a partial; resume and seal it first")
    first = sealed[0]
    raise AmbiguousError(
        f"{first.path.parent} must have one feature set for {first.dataset}/{first.split}, {first.backbone}; "
        f"found {len(sealed)}; give one of their fingerprints, {described(sealed)}"
    )


def _age(entry: Entry, here: Sequence[Entry]) -> str:
    """How a copied set relates to the contents of its dataset that are here."""
    same = [e for e in here if (e.dataset, e.split, e.backbone) == (entry.dataset, entry.split, entry.backbone)]
    same = [e for e in same if e.recipe == entry.recipe]
    if not same:
        return ""
    newest = max(same, key=lambda e: e.sealed_at)
    if not entry.sealed_at or entry.sealed_at == newest.sealed_at:
        return f"another content of the dataset than {newest.fingerprint[:16]}, which is here; the newer is not known"
    if entry.sealed_at > newest.sealed_at:
        return f"a newer content of the dataset than {newest.fingerprint[:16]}, which is here: it is read from now on"
    return f"an older content of the dataset than {newest.fingerprint[:16]}, which is here"


def _verified(entry: Entry) -> VerifyReport:
    if not entry.message:
        return reported(entry.path, entry.fingerprint, entry.root)
    return VerifyReport(
        path=entry.path, fingerprint=entry.fingerprint, chunks={}, error=entry.message, checked=entry.checked
    )
