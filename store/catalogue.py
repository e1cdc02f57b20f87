"""The catalogue: a directory of feature sets, found by dataset, split, backbone and fingerprint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from featurebank.store._adding import Added, add
from featurebank.store._collecting import Garbage, leftovers, superseded
from featurebank.store._collecting import delete as remove
from featurebank.store._listing import entry_of, named
from featurebank.store._merging import Merged, merged
from featurebank.store._names import decode_component, encode_component, partial_path
from featurebank.store._noted import note, noted
from featurebank.store._sharing import shared_records
from featurebank.store._sources import Features
from featurebank.store.entries import Entry, newest_contents, only, shortest
from featurebank.store.errors import (
    AmbiguousError,
    InvalidInputError,
    NotFoundError,
    StoreError,
    unknown_name,
)
from featurebank.store.places import STORE_VARIABLE, expanded
from featurebank.store.reader import FeatureSet, Verification
from featurebank.store.verify import VerifyReport

__all__ = ["FeatureStore"]

_FILE = re.compile(r"([0-9a-f]{16})\.h5(\.partial)?")


class FeatureStore:
    """A directory of feature sets: ``<root>/<dataset>/<split>/<backbone>/<16 hex of the fingerprint>.h5``.

    ``len(store)`` is the number of sealed sets, iterating gives their entries in the order of `ls`, and
    ``"dataset/split" in store`` is whether there is one of that split, or with ``"dataset"`` of any.

    Args:
        root: The directory, by default the one that ``$FEATUREBANK_STORE`` names. Writing makes it; whatever lists,
            counts, opens, verifies or collects raises `NotFoundError` where there is none. `find` and `state`, which
            ask before something is written, do not.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = expanded(f"${STORE_VARIABLE}" if root is None else root)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r})"

    def __bool__(self) -> bool:
        """A store is true, also an empty one, whose length is 0, and one that is yet to be made."""
        return True

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self.ls() if entry.state == "sealed")

    def __contains__(self, dataset: object) -> bool:
        if isinstance(dataset, Entry):
            return dataset in self.ls()
        return isinstance(dataset, str) and any(entry.state == "sealed" for entry in self.ls(dataset))

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

        Raises:
            NotFoundError: there is no such folder.
        """
        self._check_there()
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
            NotFoundError: nothing matches; the text has the nearest names. Or there is no store.
            AmbiguousError: several match; the text has their fingerprints and where their keys differ.
            NotSealedError: there is only a partial.
            CorruptError: what matches is damaged.
        """
        name, split = _parts(dataset)
        self._check_there()
        matching = [entry_of(names, path, self.root) for names, path in self._files(name, split, backbone)]
        if len({entry.network for entry in matching}) != 1:
            called = self.ls(dataset, backbone)
            matching = [entry for entry in called if entry.name == backbone] or matching
        if not matching:
            there = [names[2] for names, _ in self._files(name, split)]
            if there:
                raise unknown_name("backbone", backbone, there, where=f"{self.root}, {dataset}")
            known = (f"{names[0]}/{names[1]}" for names, _ in self._files())
            raise unknown_name("dataset", dataset, known, where=str(self.root))
        if fingerprint is not None:
            there = [entry.fingerprint for entry in matching]
            # A damaged file is known by the beginning of its fingerprint only.
            matching = [
                e for e in matching if e.fingerprint.startswith(fingerprint) or fingerprint.startswith(e.fingerprint)
            ]
            if not matching:
                raise unknown_name("fingerprint", fingerprint, there, where=f"{self.root}, {dataset}, {backbone}")
            return only(matching).open(verify)
        entry = only(newest_contents(matching) or matching)
        opened = entry.open(verify)
        opened.older = tuple(e.fingerprint for e in matching if e.state == "sealed" and e.path != entry.path)
        return opened

    def add(
        self,
        dataset: str,
        backbone: str,
        features: Features,
        *,
        labels: ArrayLike | None = None,
        ids: Iterable[str] | None = None,
        n_rows: int | None = None,
        class_names: Sequence[str] = (),
        columns: Mapping[str, ArrayLike] | None = None,
        head: tuple[NDArray[Any], NDArray[Any]] | None = None,
        dtype: Literal["float16", "float32"] = "float16",
        content_hash: ArrayLike | None = None,
        key: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> FeatureSet:
        """Adds features that were made elsewhere, of images, text, audio or anything else, and opens them.

        To add the same again does nothing and opens what is there; nothing is ever replaced. Where other features or
        records are added under the names and `key` of a set, they are a newer content of the dataset: `open` reads
        them from then on. Blocks go to a file without a name in the store first, so that one at a time is in memory.

        Args:
            dataset: ``"dataset/split"``.
            backbone: What made the features, by name.
            features: An array (N, …) called ``pooled``, a mapping of names to arrays, or an iterable of blocks of
                consecutive rows, each as either of these. What has ``dtype`` and ``shape`` is read by slices.
            labels: Whole numbers (N,), or (N, L) of several labels a row; -1 is none, which is so for all by default.
            ids: N distinct strings, of many best a NumPy array of ``StringDType``; ``"0"`` to ``"N-1"`` by default.
            n_rows: N; needed for blocks where there are neither labels nor ids.
            class_names: One for each number of a class, or for each of L.
            columns: Name to N more values of each row.
            head: The classifier's weight (K, D) and bias (K,), float16 or float32.
            dtype: What is stored, ``"float16"`` or ``"float32"``.
            content_hash: uint8 (N, 16), what tells the contents apart, as `featurebank.store.fingerprint.content_hash`
                makes it of their bytes; by default it is that of the features' bytes, as they are stored.
            key: What determined the numbers, such as name, version and settings: plain JSON, in the fingerprint.
                Sets of one backbone with different keys lie beside each other; `open` then needs a fingerprint.
            provenance: What did not: plain JSON.

        Raises:
            InvalidInputError: something that cannot be stored; features that are not finite, or too small for all
                their digits, once they are cast; counts of rows that differ.
            TypeError: ``key`` or ``provenance`` is no plain JSON.
            ExistsError: a set of that key, ids, labels and content hashes is there with something else in it.
            LockedError: another process is adding the same.
            StorageError: the disk is full, read-only, …; nothing is left behind.

        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> import numpy as np
        >>> made_by = {"name": "all-MiniLM-L6-v2", "version": 2}
        >>> fs = store.add("agnews/train", "minilm", np.eye(4, 8), labels=[0, 1, 2, 1], key=made_by)
        >>> fs["pooled"].shape, fs.ids.tolist(), fs.key["made_with"]["version"]
        ((4, 8), ['0', '1', '2', '3'], 2)
        >>> blocks = (np.full((2, 8), number) for number in range(3))
        >>> store.add("agnews/test", "minilm", blocks, n_rows=6, key=made_by)["pooled"][:, 0].tolist()
        [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
        """
        name, split = _parts(dataset)
        added = Added(
            dataset=name,
            split=split,
            backbone=backbone,
            labels=labels,
            ids=ids,
            n_rows=n_rows,
            class_names=class_names,
            columns=columns or {},
            head=head,
            dtype=dtype,
            content_hash=content_hash,
            key=key or {},
            provenance=provenance or {},
        )
        return add(lambda fingerprint: self.path_for(name, split, backbone, fingerprint), features, added)

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
        sealed = {entry.fingerprint: entry for entry in self}
        matching = [known for known in sealed if known.startswith(fingerprint)]
        if not matching:
            raise unknown_name("fingerprint of a sealed set", fingerprint, sealed, where=str(self.root))
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
        """Verifies every file that is not a partial; what is wrong with one is in its report and stops no other.

        Raises:
            NotFoundError: there is no such folder.
        """
        return [entry.verify() for entry in self.ls() if entry.path.suffix == ".h5"]

    def merge(self, other: FeatureStore) -> list[Merged]:
        """Copies every sealed set of another store that this one has not, verified before and after.

        What is here is never replaced, and partials stay where they are. What cannot be copied is said in its
        `Merged` and stops no other; after an interruption, merging again goes on with the next.

        Raises:
            NotFoundError: there is no folder of the other store.
        """
        there = other.ls()
        here = list(self) if self.root.is_dir() else []
        return [merged(entry, self.path_for, here) for entry in there if entry.path.suffix == ".h5"]

    def gc(self, *, delete: bool = False, hours: float = 24) -> list[Garbage]:
        """What the store can do without: leavings of dead runs, and sets that a later one supersedes.

        A partial or layout is one that no writer holds and nobody has written to for ``hours``. A sealed set is
        superseded by one that was sealed later, of the same key but for the dataset's content: the dataset has grown
        or changed. Sets are deleted only where this store has sealed both and the data did not give the earlier content
        when they were last looked at; others are listed, with the reason why they are kept.

        Args:
            delete: Delete what is found and not kept; else only list it.
            hours: How long nobody must have written to a partial.

        Raises:
            NotFoundError: there is no such folder.
        """
        self._check_there()
        found = [garbage for garbage in leftovers(self.root, hours) if self._is_inside(garbage.path)]
        found += superseded(list(self), noted(self.root))
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
        with self._largest(first) as one, self._largest(second) as other:
            return shared_records(one, other)

    def _largest(self, dataset: str) -> FeatureSet:
        sealed = list(self)
        matching = [entry for entry in sealed if f"{entry.dataset}/{entry.split}" == dataset]
        if not matching:
            known = (f"{entry.dataset}/{entry.split}" for entry in sealed)
            raise unknown_name("dataset", dataset, known, where=str(self.root))
        return max(newest_contents(matching), key=lambda entry: entry.n_rows).open()

    def _files(self, *names: str) -> Iterator[tuple[tuple[str, str, str], Path]]:
        """The files of a store; of a dataset, a split and a backbone alone, as far as they are named."""
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

    def _check_there(self) -> None:
        """Raises NotFoundError unless the store's folder exists."""
        if not self.root.is_dir():
            above = next((folder for folder in self.root.absolute().parents if folder.is_dir()), self.root)
            raise NotFoundError(
                f"{self.root} must be a store's folder; found {'a file' if self.root.exists() else 'nothing'}; "
                f"of the folders above it {above} exists; check the path, or make the store by writing to it"
            )

    def _is_inside(self, path: Path) -> bool:
        # Unlike Path.resolve, it takes a link to itself for what it is.
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))


def _parts(dataset: str) -> tuple[str, str]:
    name, separator, split = dataset.rpartition("/")
    if not separator:
        raise InvalidInputError(f"a dataset must be given as 'dataset/split'; found {dataset!r}")
    return name, split
