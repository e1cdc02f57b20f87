"""What a store holds, found by dataset, split, backbone and fingerprint: in a folder, or published on a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from featurebank.store._listing import Folder, named
from featurebank.store._published import Published
from featurebank.store._sharing import shared_records
from featurebank.store.addresses import Url, location
from featurebank.store.entries import Entries, Entry, newest_contents, only, shortest
from featurebank.store.errors import AmbiguousError, InvalidInputError, StoreError, unknown_name
from featurebank.store.places import STORE_VARIABLE, expanded
from featurebank.store.reader import FeatureSet, Verification


class Holdings:
    """What `featurebank.store.FeatureStore` reads."""

    def __init__(self, root: str | os.PathLike[str] | Url | None = None) -> None:
        place = location(os.environ.get(STORE_VARIABLE, "") if root is None else root)
        self._shelf: Folder | Published
        if isinstance(place, Url):
            self._shelf = Published(place)
        else:
            self._shelf = Folder(expanded(f"${STORE_VARIABLE}" if root is None else place))

    @property
    def root(self) -> Path:
        """The store's folder.

        Raises:
            InvalidInputError: it is on a server, and can be read only.
        """
        if isinstance(self._shelf, Published):
            raise InvalidInputError(
                f"{self._shelf.place} must be a folder of this machine for that; found a store on a server, which "
                f"lists and opens sets and does nothing else; copy its files here first"
            )
        return self._shelf.root

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._shelf.place)!r})"

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

    def __getitem__(self, names: tuple[str, str]) -> FeatureSet:
        if not (isinstance(names, tuple) and list(map(type, names)) == [str, str]):
            raise InvalidInputError(f"a store must be asked for ['dataset/split', 'backbone']; found {names!r}"[:500])
        return self.open(*names)

    def ls(self, dataset: str | None = None, backbone: str | None = None) -> Entries:
        """Every feature set and partial there is, sorted; reads headers only.

        Of a store on a server, the sealed sets of its index, as it was when it was first asked for.

        Args:
            dataset: Only this dataset, ``"name"`` or ``"name/split"``.
            backbone: Only this backbone, by its name or by what it is called among those of its name.

        Raises:
            NotFoundError: there is no such folder.
        """
        self._shelf.check_there()
        files = list(self._shelf.files())
        wanted = {
            names[2]
            for names, _ in files
            if dataset in (None, names[0], f"{names[0]}/{names[1]}")
            and (backbone in (None, names[2]) or str(backbone).startswith(f"{names[2]}["))
        }
        entries = named([self._shelf.entry(names, path) for names, path in files if names[2] in wanted])
        return Entries(
            entry
            for entry in entries
            if dataset in (None, entry.dataset, f"{entry.dataset}/{entry.split}")
            and backbone in (None, entry.backbone, entry.name)
        )

    def open(
        self, dataset: str, backbone: str, *, fingerprint: str | None = None, verify: Verification | None = None
    ) -> FeatureSet:
        """Opens the feature set of a backbone on a split.

        Where several differ in nothing but the content of the dataset, because it has grown, the newest is opened: the
        one that was sealed last. The set's ``older`` has the fingerprints of the others, and a line of the log says so.

        Args:
            dataset: ``"dataset/split"``.
            backbone: The backbone's name, or what it is called among those of its name.
            fingerprint: The fingerprint or its beginning; needed where sets of several recipes match, or to open an
                older content of the dataset.
            verify: Whether values are hashed before they are handed out; see `FeatureSet`. By default those are that
                come from a server, in whole chunks.

        Raises:
            NotFoundError: nothing matches; the text has the nearest names. Or there is no store.
            AmbiguousError: several match; the text has their fingerprints and where their keys differ.
            NotSealedError: there is only a partial.
            CorruptError: what matches is damaged.
        """
        name, split = parts(dataset)
        self._shelf.check_there()
        matching = [self._shelf.entry(names, path) for names, path in self._shelf.files(name, split, backbone)]
        if len({entry.network for entry in matching}) != 1:
            called = self.ls(dataset, backbone)
            matching = [entry for entry in called if entry.name == backbone] or matching
        if not matching:
            there = [names[2] for names, _ in self._shelf.files(name, split)]
            if there:
                raise unknown_name("backbone", backbone, there, where=f"{self._shelf.place}, {dataset}")
            known = (f"{names[0]}/{names[1]}" for names, _ in self._shelf.files())
            raise unknown_name("dataset", dataset, known, where=str(self._shelf.place))
        if fingerprint is not None:
            there = [entry.fingerprint for entry in matching]
            # A damaged file is known by the beginning of its fingerprint only.
            matching = [
                e for e in matching if e.fingerprint.startswith(fingerprint) or fingerprint.startswith(e.fingerprint)
            ]
            if not matching:
                raise unknown_name(
                    "fingerprint", fingerprint, there, where=f"{self._shelf.place}, {dataset}, {backbone}"
                )
            return only(matching).open(verify)
        entry = only(newest_contents(matching) or matching)
        opened = entry.open(verify)
        opened.older = tuple(e.fingerprint for e in matching if e.state == "sealed" and e.path != entry.path)
        return opened

    def find(self, fingerprint: str) -> FeatureSet | None:
        """The sealed feature set with that fingerprint (64 or its first 16 hex digits), if there is one."""
        damaged: StoreError | None = None
        for _, path in self._shelf.files():
            if path.name == f"{fingerprint[:16]}.h5" and self._shelf.is_inside(path):
                try:
                    feature_set = self._shelf.open(path)
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
            raise unknown_name("fingerprint of a sealed set", fingerprint, sealed, where=str(self._shelf.place))
        if len(matching) > 1:
            names = shortest(sealed[known] for known in matching).values()
            raise AmbiguousError(
                f"{self._shelf.place}: several fingerprints begin with {fingerprint!r}: {', '.join(names)}"
            )
        return sealed[matching[0]].open()

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
            raise unknown_name("dataset", dataset, known, where=str(self._shelf.place))
        return max(newest_contents(matching), key=lambda entry: entry.n_rows).open()


def parts(dataset: str) -> tuple[str, str]:
    """Name and split of ``"dataset/split"``."""
    name, separator, split = dataset.rpartition("/")
    if not separator:
        raise InvalidInputError(f"a dataset must be given as 'dataset/split'; found {dataset!r}")
    return name, split
