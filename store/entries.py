"""One file of a store, and which of several is meant: the newest content of a dataset, where that alone differs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

from featurebank.store._records import Output
from featurebank.store.addresses import Url
from featurebank.store.errors import AmbiguousError, CorruptError, InvalidInputError, NotSealedError, StoreError
from featurebank.store.fingerprint import differences
from featurebank.store.naming import Network
from featurebank.store.reader import FeatureSet, Verification
from featurebank.store.requirements import advice
from featurebank.store.stamps import is_ahead, is_own, secret_of
from featurebank.store.verify import VerifyReport, reported

__all__ = ["Entries", "Entry", "Served", "State", "described", "newest_contents", "only", "shortest"]

log = logging.getLogger("featurebank")

State: TypeAlias = Literal["sealed", "partial", "damaged"]
_SHORTEST = 16
_COLUMNS = ("dataset", "split", "name", "fingerprint", "state", "n_rows", "n_done", "nbytes", "sealed_at", "message")
_told: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class Served:
    """A sealed set on a server.

    Attributes:
        url: The file's address.
        fingerprint: Its fingerprint, 64 hex digits.
        digest: Its file digest, 32 hex digits: it covers all but the outputs, whose checksums it covers.
    """

    url: Url
    fingerprint: str
    digest: str

    def open(self, verify: Verification) -> FeatureSet:
        """Opens the set that was listed.

        Raises:
            CorruptError: another one is there.
            StoreError: as `FeatureSet`.
        """
        feature_set = FeatureSet(self.url, verify)
        there = (feature_set.fingerprint, feature_set.header.file_digest.hex())
        if there != (self.fingerprint, self.digest):
            feature_set.close()
            raise CorruptError(
                f"{self.url} must be the file of the store's index, {self.fingerprint[:16]} of digest {self.digest}; "
                f"found {there[0][:16]} of digest {there[1]}; write the index anew: featurebank index"
            )
        return feature_set


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
        n_done: rows that are there in every output: all of a sealed set.
        outputs: Empty where the file cannot be read.
        nbytes: The size of the file.
        path: The file.
        message: What is wrong with a damaged file.
        checked: Whether the file could be read; where not, ``message`` says why and nothing is known of it.
        recipe: What sets share that differ in the content of their dataset alone.
        sealed_at: When it was sealed, ISO 8601 in UTC; empty where that is not known.
        root: The store's folder, which the file must lie in when it is opened.
        network: Which network, where the file can be read.
        name: What the backbone is called among those of the store: see `featurebank.store.naming.names_of`.
        served: Where it lies on a server, instead of in a folder; ``path`` then begins at the store's root.
    """

    dataset: str
    split: str
    backbone: str
    fingerprint: str
    state: State
    n_rows: int = 0
    n_done: int = 0
    outputs: tuple[Output, ...] = ()
    nbytes: int = 0
    path: Path
    message: str = ""
    checked: bool = True
    recipe: str = ""
    sealed_at: str = ""
    root: Path | None = None
    network: Network | None = None
    name: str = ""
    served: Served | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.backbone)

    @property
    def place(self) -> str:
        """DATASET/SPLIT."""
        return f"{self.dataset}/{self.split}"

    def open(self, verify: Verification | None = None) -> FeatureSet:
        """Opens the sealed set, if it still lies in its store.

        Args:
            verify: As `FeatureSet` has it; by default ``"header"``, and ``"first_touch"`` of a set on a server.

        Raises:
            StoreError: as `FeatureSet`.
        """
        if self.served is None:
            return FeatureSet(self.path, verify or "header", within=self.root)
        return self.served.open(verify or "first_touch")

    def verify(self) -> VerifyReport:
        """What verifying the file gives, whatever happens."""
        if self.served is not None:
            why = f"{self.served.url} is on a server: what is read of it is checked then; copy it here to verify it"
            return VerifyReport(path=self.path, fingerprint=self.fingerprint, error=why, checked=False)
        if not self.message:
            return reported(self.path, self.fingerprint, self.root)
        return VerifyReport(path=self.path, fingerprint=self.fingerprint, error=self.message, checked=self.checked)

    @property
    def lineage(self) -> tuple[str, str, str, str]:
        """What the contents of one dataset share: all of their keys agree but for its digest."""
        return self.dataset, self.split, self.backbone, self.recipe or self.fingerprint

    @property
    def is_own(self) -> bool:
        """Whether the store that it lies in sealed it; not where it cannot be opened any more."""
        if self.root is None or (secret := secret_of(self.root)) is None:
            return False
        try:
            with self.open() as feature_set:
                return is_own(feature_set, secret)
        except StoreError:
            return False


class Entries(list[Entry]):
    """What `FeatureStore.ls` gives: a list, and a table with a line for each file."""

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``. Needs pandas.

        Raises:
            InvalidInputError: it is not installed.
        """
        return self._table("pandas")

    def to_polars(self) -> Any:
        """A ``polars.DataFrame``. Needs polars.

        Raises:
            InvalidInputError: it is not installed.
        """
        return self._table("polars")

    def _table(self, package: str) -> Any:
        try:
            maker = import_module(package)
        except ImportError as error:
            raise InvalidInputError(f"a data frame {advice(package)}") from error
        columns = {name: [getattr(entry, name) for entry in self] for name in _COLUMNS}
        outputs = [" ".join(output.name for output in entry.outputs) for entry in self]
        paths = [str(entry.served.url if entry.served else entry.path) for entry in self]
        return maker.DataFrame({**columns, "outputs": outputs, "path": paths})


def newest_contents(entries: Sequence[Entry], asked: Iterable[str] = ()) -> list[Entry]:
    """The sealed sets without those whose dataset has a newer content; one line of the log says which those are.

    Sets are contents of one dataset where all of their keys agree but for its digest. One that was sealed at an unknown
    time counts as older than one of a known time; where none is the newest, all are kept.

    Args:
        entries: Of one store; what is not sealed is left out, damaged ones with a line of the log.
        asked: Beginnings of fingerprints: a set that has one is kept instead of the newest.
    """
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if entry.state == "sealed":
            groups.setdefault(entry.lineage, []).append(entry)
        elif entry.state == "damaged":
            _tell(f"passed over: {entry.message}")
    kept: set[Path] = set()
    for group in groups.values():
        chosen = [entry for entry in group if entry.fingerprint.startswith(tuple(asked))] or _newest(group)
        kept |= {entry.path for entry in chosen}
        if len(chosen) == 1 < len(group) and not (asked and chosen[0].fingerprint.startswith(tuple(asked))):
            _tell(_line(chosen[0], group))
    return [entry for entry in entries if entry.path in kept]


def only(entries: Sequence[Entry]) -> Entry:
    """The one sealed set of these, which are of one backbone and split.

    Raises:
        AmbiguousError: there are several; the text has their fingerprints and where their keys differ.
        NotSealedError: there is only a partial.
        CorruptError: there is only a damaged file.
    """
    sealed = [entry for entry in entries if entry.state == "sealed"]
    if len(sealed) == 1:
        return sealed[0]
    if not sealed:
        for entry in entries:
            if entry.state == "damaged":
                raise CorruptError(entry.message)
        raise NotSealedError(f"{entries[0].path} is still a partial; resume and seal it first")
    first = sealed[0]
    raise AmbiguousError(
        f"{first.path.parent} must have one feature set for {first.dataset}/{first.split}, {first.backbone}; "
        f"found {len(sealed)}; give one of their fingerprints, {described(sealed)}"
    )


def described(entries: Sequence[Entry]) -> str:
    """Several sets by beginnings of their fingerprints that tell them apart, and where their keys differ."""
    names = shortest(entries)
    listed = ", ".join(f"{names[e.path]} (sealed {e.sealed_at or 'at an unknown time'})" for e in entries)
    keys = []
    for entry in entries:
        with entry.open() as feature_set:
            keys.append(feature_set.key)
    lines = [listed]
    for entry, key in zip(entries[1:], keys[1:], strict=True):
        lines.append(f"  {names[entries[0].path]} and {names[entry.path]} differ in:")
        lines += [f"    {field}: {left!r} and {right!r}" for field, left, right in differences(keys[0], key)]
    return "\n".join(lines)


def shortest(entries: Iterable[Entry]) -> dict[Path, str]:
    """The shortest beginning of each fingerprint, of 16 digits, a file's name, or more, that no other has."""
    every = {entry.path: entry.fingerprint for entry in entries}
    length = _SHORTEST
    while length < 64 and len({text[:length] for text in every.values()}) < len(set(every.values())):
        length += 1
    return {path: text[:length] for path, text in every.items()}


def _newest(group: Sequence[Entry]) -> list[Entry]:
    # Another store's clock may be wrong, or its time made up: one that is yet to come is none.
    times = {e.path: "" if is_ahead(e.sealed_at) and not e.is_own else e.sealed_at for e in group}
    latest = max(times.values())
    return [entry for entry in group if times[entry.path] == latest]


def _line(newest: Entry, group: Sequence[Entry]) -> str:
    names = shortest(group)
    others = ", ".join(names[entry.path] for entry in group if entry is not newest)
    origin = "" if newest.is_own else ", which another store made,"
    return (
        f"{newest.root}: {newest.dataset}/{newest.split}, {newest.name}: of {len(group)} contents of the dataset "
        f"the newest is read, {names[newest.path]}{origin} of {newest.sealed_at}; a fingerprint chooses an older one: "
        f"{others}"
    )


def _tell(line: str) -> None:
    """Once in a process: a command asks for the same set many times."""
    if line not in _told:
        _told.add(line)
        log.warning("%s", line)
