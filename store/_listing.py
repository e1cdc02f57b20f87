"""A store's folder: its files, and what is listed of each, its header and manifest compared with where it lies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurebank.store._header import Header
from featurebank.store._names import decode_component, encode_component
from featurebank.store._opening import open_within, read_partial, read_sealed, string_in
from featurebank.store._parts import committed_rows
from featurebank.store.entries import Entry
from featurebank.store.errors import CorruptError, InvalidInputError, NotFoundError, StoreError
from featurebank.store.naming import names_of, network_of
from featurebank.store.reader import FeatureSet
from featurebank.store.stamps import PLACES, recipe_of, stamp_of
from featurebank.store.verify import was_checked

_FILE = re.compile(r"([0-9a-f]{16})\.h5(\.partial)?")


class Folder:
    """A store in a folder of this machine.

    Args:
        root: the folder, which need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = self.place = root

    def check_there(self) -> None:
        """Raises NotFoundError unless the folder exists."""
        if not self.root.is_dir():
            above = next((folder for folder in self.root.absolute().parents if folder.is_dir()), self.root)
            raise NotFoundError(
                f"{self.root} must be a store's folder; found {'a file' if self.root.exists() else 'nothing'}; "
                f"of the folders above it {above} exists; check the path, or make the store by writing to it"
            )

    def files(self, *names: str) -> Iterator[tuple[tuple[str, str, str], Path]]:
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

    def entry(self, names: tuple[str, str, str], path: Path) -> Entry:
        """What is listed of a file."""
        return entry_of(names, path, self.root)

    def open(self, path: Path) -> FeatureSet:
        """A file that must lie in the folder."""
        return FeatureSet(path, within=self.root)

    def is_inside(self, path: Path) -> bool:
        """Whether a path leads to within the folder."""
        return is_inside(self.root, path)


def is_inside(root: Path, path: Path) -> bool:
    """Whether a path leads to within a folder."""
    # Unlike Path.resolve, it takes a link to itself for what it is.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def entry_of(names: tuple[str, str, str], path: Path, root: Path) -> Entry:
    """One file of a store, found in the folders of these names; what is wrong with it is in its message."""
    entry = Entry(
        dataset=names[0],
        split=names[1],
        backbone=names[2],
        fingerprint=path.name[:16],
        state="damaged",
        path=path,
        root=root,
    )
    try:
        header, manifest, n_done = _read(path, root)
        _check_names(names, path, manifest["key"])
    except StoreError as error:
        return replace(entry, message=str(error), checked=was_checked(error))
    return replace(
        entry,
        fingerprint=header.table.fingerprint,
        state="partial" if path.suffix == ".partial" else "sealed",
        n_rows=header.table.n_rows,
        n_done=n_done,
        outputs=header.table.described(),
        nbytes=header.file_size,
        recipe=recipe_of(manifest["key"]),
        sealed_at=stamp_of(manifest["provenance"]).at,
        network=network_of(names[2], manifest["key"], manifest["provenance"]),
    )


def named(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of a store with what each backbone is called among them."""
    networks = (entry.network for entry in sorted(entries, key=lambda entry: entry.sealed_at))
    called = names_of(network for network in networks if network)
    return [replace(e, name=called[e.network.place]) if e.network else e for e in entries]


def _read(path: Path, root: Path) -> tuple[Header, dict[str, Any], int]:
    """Header, manifest, and the rows that are there."""
    if path.suffix != ".partial":
        header, manifest = read_sealed(path, root)
        return header, manifest, header.table.n_rows
    with open_within(path, root) as disk:
        header, manifest = read_partial(disk)
        return header, manifest, committed_rows(disk, header.table, manifest["provenance"])


def _check_names(names: tuple[str, str, str], path: Path, key: dict[str, Any]) -> None:
    expected = tuple(string_in(key, *place) for place in PLACES)
    if names != expected:
        raise CorruptError(
            f"{path} must lie in the folders of its key, {' / '.join(expected)}; found {' / '.join(names)}: "
            f"it was moved; move it back"
        )
