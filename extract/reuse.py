"""Growth without recomputing: rows whose content a sealed set of the same backbone holds already are copied."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import FeatureSet, StoreError
from featurebank.store.fingerprint import fingerprint
from featurebank.store.stamps import is_own, secret_of

__all__ = ["DONORS", "Copies", "Donor", "copied_from_others", "find_copies", "runs"]

log = logging.getLogger("featurebank")

DONORS = "donors"
OWN_SAMPLE, FOREIGN_SAMPLE = 4, 16


class Copies:
    """Where the features of a new set's rows stand already.

    Args:
        donors: sealed sets.
        which: (N,) which of them has a row, -1 where none.
        rows: (N,) the donor's row.
        sample: (N,) the rows that are computed all the same, to be compared.

    Attributes:
        mask: (N,) the rows that need no computing.
        sample: as above.
        compared: how many rows of the sample were found to be right.
    """

    def __init__(
        self,
        donors: Sequence[Donor],
        which: NDArray[np.intp],
        rows: NDArray[np.intp],
        sample: NDArray[np.bool_],
    ) -> None:
        self.mask: NDArray[np.bool_] = (which >= 0) & ~sample
        self.sample = sample
        self.compared = 0
        self._donors = tuple(donors)
        self._which = which
        self._rows = rows
        self._opened: dict[int, FeatureSet] = {}

    def donor(self, index: int) -> FeatureSet:
        """One of the donors, opened when it is first asked for."""
        if index not in self._opened:
            self._opened[index] = FeatureSet(self._donors[index].path)
        return self._opened[index]

    def donor_of(self, row: int) -> Donor:
        """The donor of a row."""
        return self._donors[int(self._which[row])]

    def told(self) -> list[dict[str, Any]]:
        """The donors for the provenance: fingerprint, rows, and whether this store made the features."""
        counts = np.bincount(self._which[self._which >= 0], minlength=len(self._donors)).tolist()
        return [
            {"fingerprint": donor.fingerprint, "rows": count, "own": donor.own}
            for donor, count in zip(self._donors, counts, strict=True)
        ]

    def values(self, name: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(n, ...) features of an output for n rows, all of which a donor has."""
        info = self.donor(0).info(name)
        values = np.empty((len(rows), *info.shape), info.dtype)
        which = self._which[rows]
        for index in np.unique(which).tolist():
            here = which == index
            values[here] = self.donor(index).load(name, self._rows[rows[here]])
        return values


@dataclass(frozen=True)
class Donor:
    """A set that rows are copied from, and whether this store made its features itself."""

    path: Path
    fingerprint: str
    own: bool


def find_copies(
    path: Path,
    key: Mapping[str, Any],
    hashes: NDArray[np.uint8],
    *,
    trust_merged: bool = False,
    refused: Container[Path] = (),
) -> Copies | None:
    """The rows of a new feature set that need no computing, or ``None`` where there are none.

    A donor is a sealed set of the same store whose key differs in the dataset alone, and which verifies. That says that
    its bytes are those that were sealed, not that they are features of these images: sets that another store made are
    donors only on request. Rows are known by their content hash; rows that failed are tried again. A few rows are left
    to be computed again and compared: 16 of each donor from elsewhere, else 4, unless nothing is to be computed.

    Args:
        path: where the new set will lie.
        key: its key.
        hashes: (N, 16) its content hashes, all zero where a record cannot be read.
        trust_merged: take rows of sets that another store made, or a release that marked none.
        refused: sets whose features have been found to be others.
    """
    root, contents = path.parents[3], _strings(hashes)
    secret = secret_of(root)
    which = np.full(len(contents), -1, np.intp)
    rows = np.zeros(len(contents), np.intp)
    donors: list[Donor] = []
    for candidate in sorted(root.glob(f"*/*/{path.parent.name}/*.h5")):
        if candidate in refused:
            continue
        try:
            with FeatureSet(candidate, within=root) as found:
                if _without_dataset(found.key) != _without_dataset(key):
                    continue
                places = _places(found, contents)
                new = (which < 0) & (places >= 0)
                own = is_own(found, secret) and not copied_from_others(found.provenance)
                if new.any() and not own and not trust_merged:
                    log.warning(
                        "%s has %d of the images of %s/%s, but it is not of this store's own making: their rows are "
                        "computed; --trust-merged copies them",
                        candidate,
                        np.count_nonzero(new),
                        *path.parts[-4:-2],
                    )
                    continue
                if not new.any():
                    continue
                found.verify()
                donor = Donor(candidate, found.fingerprint, own)
        except StoreError as error:
            log.warning("no rows are copied from %s: %s", candidate, error)
            continue
        which[new] = len(donors)
        rows[new] = places[new]
        donors.append(donor)
    if not donors:
        return None
    chance = np.random.default_rng(np.frombuffer(hashlib.sha256((secret or b"") + path.name.encode()).digest(), "<u8"))
    return Copies(donors, which, rows, _sample(which, [donor.own for donor in donors], chance))


def copied_from_others(provenance: Mapping[str, Any]) -> bool:
    """Whether a set has rows of sets that are not of its store's own making."""
    donors = provenance.get(DONORS, [])
    return not isinstance(donors, list) or any(not isinstance(d, dict) or d.get("own") is not True for d in donors)


def _sample(which: NDArray[np.intp], own: Sequence[bool], chance: np.random.Generator) -> NDArray[np.bool_]:
    """(N,) the copied rows that are computed too; which, nobody knows who does not know the store's secret."""
    sample = np.zeros(len(which), np.bool_)
    groups = [(np.flatnonzero(which == index), FOREIGN_SAMPLE) for index, is_ours in enumerate(own) if not is_ours]
    if (which < 0).any():
        groups.append((np.flatnonzero(np.isin(which, np.flatnonzero(own))), OWN_SAMPLE))
    for rows, size in groups:
        sample[chance.choice(rows, min(size, len(rows)), replace=False)] = True
    return sample


def runs(rows: NDArray[np.integer[Any]]) -> Iterator[tuple[int, int]]:
    """Ascending rows as half-open ranges.

    >>> list(runs(np.array([0, 1, 2, 7, 9])))
    [(0, 3), (7, 8), (9, 10)]
    """
    if not len(rows):
        return
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for first, stop in itertools.pairwise([0, *breaks.tolist(), len(rows)]):
        yield int(rows[first]), int(rows[stop - 1]) + 1


def _places(found: FeatureSet, contents: NDArray[np.bytes_]) -> NDArray[np.intp]:
    """(N,) the row of a set that has each content and its features, -1 where none has."""
    known = np.flatnonzero(found.ok & found.content_hash.any(axis=1))
    if not len(known):
        return np.full(len(contents), -1, np.intp)
    theirs = _strings(found.content_hash[known])
    order = np.argsort(theirs, kind="stable")
    at = order[np.minimum(np.searchsorted(theirs, contents, sorter=order), len(known) - 1)]
    places: NDArray[np.intp] = np.where(theirs[at] == contents, known[at], -1)
    return places


def _without_dataset(key: Mapping[str, Any]) -> str:
    return fingerprint({name: value for name, value in key.items() if name != "dataset"})


def _strings(hashes: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """(N, 16) bytes as (N,) fixed-width strings, which sort and compare as wholes."""
    return np.ascontiguousarray(hashes).view("S16").reshape(-1)
