"""What a store lists of one file: its header and manifest, read and compared with the folders that it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurebank.store._header import Header
from featurebank.store._opening import open_within, read_partial, read_sealed, string_in
from featurebank.store._parts import committed_rows
from featurebank.store.entries import Entry
from featurebank.store.errors import CorruptError, StoreError
from featurebank.store.naming import names_of, network_of
from featurebank.store.stamps import PLACES, recipe_of, stamp_of
from featurebank.store.verify import was_checked


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
