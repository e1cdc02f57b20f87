"""A store on a server: ``index.json`` at its root says what there is, for a server lists no folders. See FORMAT.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from featurebank.store import limits
from featurebank.store._manifest import marks
from featurebank.store._names import encode_component
from featurebank.store._records import Output, checked_outputs
from featurebank.store._remote import RemoteFile
from featurebank.store.addresses import Url
from featurebank.store.entries import Entry, Served
from featurebank.store.errors import CorruptError, FormatVersionError, InvalidInputError, NotFoundError
from featurebank.store.fingerprint import canonical_json
from featurebank.store.naming import Network
from featurebank.store.reader import FeatureSet
from featurebank.store.stamps import Stamp, stamp_of

INDEX = "index.json"
VERSION = 1
_TEXTS = ("dataset", "split", "backbone", "fingerprint", "digest", "recipe", "sealed_at")


def index_of(entries: Iterable[Entry]) -> bytes:
    """The text of the index of these sealed sets.

    Raises:
        StoreError: one cannot be opened any more.
    """
    sets = []
    for entry in entries:
        with entry.open() as feature_set:
            sets.append(_line(entry, feature_set.header.file_digest.hex()))
    return canonical_json({"digest": _digest(sets), "sets": sets, "version": VERSION}) + b"\n"


def _line(entry: Entry, digest: str) -> dict[str, Any]:
    outputs = [{**asdict(output), "shape": list(output.shape)} for output in entry.outputs]
    network = (
        {name: text for name, text in asdict(entry.network).items() if name != "backbone"} if entry.network else {}
    )
    counts = {"n_rows": entry.n_rows, "nbytes": entry.nbytes}
    texts = {name: getattr(entry, name) for name in _TEXTS if name != "digest"}
    return {**texts, **counts, "digest": digest, "network": network, "outputs": outputs}


def _digest(sets: Any) -> str:
    return xxhash.xxh3_128_hexdigest(canonical_json(sets))


class Published:
    """A store behind a URL, as its index says when it is first asked; a set that is opened must bear it out.

    Args:
        place: the address of its root.
    """

    def __init__(self, place: Url) -> None:
        self.place = place

    def check_there(self) -> None:
        """Raises NotFoundError where there is no index."""
        self._entries  # noqa: B018 - read at the first time

    def files(self, *names: str) -> Iterator[tuple[tuple[str, str, str], Path]]:
        """The sets of a dataset, a split and a backbone, as far as they are named; the paths begin at the root."""
        for path, entry in self._entries.items():
            own = (entry.dataset, entry.split, entry.backbone)
            if own[: len(names)] == names:
                yield own, path

    def entry(self, names: tuple[str, str, str], path: Path) -> Entry:  # noqa: ARG002 - as a folder has it
        """What is listed of a set."""
        return self._entries[path]

    def open(self, path: Path) -> FeatureSet:
        """The set of a path, checked as it is read."""
        return self._entries[path].open()

    def is_inside(self, path: Path) -> bool:
        """Whether the index has it."""
        return path in self._entries

    @cached_property
    def _entries(self) -> dict[Path, Entry]:
        where = self.place.below(INDEX)
        try:
            file = RemoteFile(where)
        except NotFoundError as error:
            raise NotFoundError(
                f"{self.place} must be a store on a server with an {INDEX}; found none, or no server; check the URL, "
                f"or write one into the store's folder: featurebank index"
            ) from error
        if file.size > limits.INDEX_BYTES:
            raise CorruptError(f"{where} must have at most {limits.INDEX_BYTES:,} bytes; found {file.size:,}")
        try:
            entries = [self._read(line) for line in _sets(file.read(0, file.size).tobytes())]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, FormatVersionError | CorruptError):
                raise
            said = f"{type(error).__name__}: {error!s:.200}"
            raise CorruptError(
                f"{where} must be the index of a store; found {said}; write it anew: featurebank index"
            ) from error
        return {entry.path: entry for entry in entries}

    def _read(self, line: Mapping[str, Any]) -> Entry:
        texts = {name: line[name] for name in _TEXTS}
        if not all(isinstance(text, str) for text in texts.values()):
            raise InvalidInputError(f"{', '.join(_TEXTS)} must be texts")
        if not re.fullmatch("[0-9a-f]{64}", texts["fingerprint"]):
            raise InvalidInputError(f"a fingerprint must be 64 hex digits; found {texts['fingerprint']!r:.100}")
        names = (texts["dataset"], texts["split"], texts["backbone"])
        steps = (*(encode_component(name, "folder") for name in names), f"{texts['fingerprint'][:16]}.h5")
        outputs = [Output(name=o["name"], shape=tuple(o["shape"]), dtype=o["dtype"]) for o in line["outputs"]]
        network = {name: str(line["network"].get(name, "")) for name in ("weights", "label", "checkpoint")}
        served = Served(url=self.place.below(*steps), fingerprint=texts["fingerprint"], digest=texts["digest"])
        stamp: Stamp = stamp_of({"sealed": {"at": texts["sealed_at"]}})
        return Entry(
            dataset=names[0],
            split=names[1],
            backbone=names[2],
            fingerprint=texts["fingerprint"],
            state="sealed",
            n_rows=int(line["n_rows"]),
            n_done=int(line["n_rows"]),
            outputs=checked_outputs(outputs),
            nbytes=int(line["nbytes"]),
            path=Path(*steps),
            recipe=texts["recipe"],
            sealed_at=stamp.at,
            network=Network(backbone=names[2], **network),
            served=served,
        )


def _sets(text: bytes) -> list[Mapping[str, Any]]:
    """The sets of an index, checked against its digest."""
    if (found := marks(text)) > limits.INDEX_MARKS:
        raise InvalidInputError(f"{found:,} brackets and commas, of at most {limits.INDEX_MARKS:,}")
    index = json.loads(text)
    if index["version"] != VERSION:
        raise FormatVersionError(
            f"an index must have version {VERSION}; found {index['version']!r:.20}: it is of another release of "
            f"featurebank; upgrade this one, or write it anew: featurebank index"
        )
    if index["digest"] != _digest(index["sets"]):
        raise InvalidInputError("sets that are not those of its digest")
    return list(index["sets"])
