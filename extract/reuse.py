"""Growth without recomputing: rows whose content a sealed set of the same backbone holds already are copied."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store import FeatureSet, StoreError
from featurebank.store.fingerprint import fingerprint

__all__ = ["Copies", "find_copies", "runs"]

log = logging.getLogger("featurebank")


class Copies:
    """Where the features of a new set's rows stand already.

    Args:
        paths: of sealed sets, the donors.
        donors: (N,) which of them has a row, -1 where none.
        rows: (N,) the donor's row.

    Attributes:
        mask: (N,) the rows that can be copied.
    """

    def __init__(self, paths: Sequence[Path], donors: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
        self.mask: NDArray[np.bool_] = donors >= 0
        self._paths = tuple(paths)
        self._donors = donors
        self._rows = rows
        self._opened: dict[int, FeatureSet] = {}

    def donor(self, index: int) -> FeatureSet:
        """One of the donors, opened when it is first asked for."""
        if index not in self._opened:
            self._opened[index] = FeatureSet(self._paths[index])
        return self._opened[index]

    def values(self, name: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """(n, ...) features of an output for n rows, all of which can be copied."""
        info = self.donor(0).info(name)
        values = np.empty((len(rows), *info.shape), info.dtype)
        donors = self._donors[rows]
        for index in np.unique(donors).tolist():
            here = donors == index
            values[here] = self.donor(index).load(name, self._rows[rows[here]])
        return values


def find_copies(path: Path, key: Mapping[str, Any], hashes: NDArray[np.uint8]) -> Copies | None:
    """The rows of a new feature set that need no computing, or ``None`` where there are none.

    A donor is a sealed set of the same store whose key differs in the dataset alone, and which verifies. Rows are
    known by their content hash; rows that failed are tried again.

    Args:
        path: where the new set will lie.
        key: its key.
        hashes: (N, 16) its content hashes, all zero where a record cannot be read.
    """
    wanted, contents = _without_dataset(key), _strings(hashes)
    donors = np.full(len(contents), -1, np.intp)
    rows = np.zeros(len(contents), np.intp)
    paths: list[Path] = []
    for candidate in sorted(path.parents[3].glob(f"*/*/{path.parent.name}/*.h5")):
        try:
            with FeatureSet(candidate) as found:
                if _without_dataset(found.key) != wanted:
                    continue
                places = _places(found, contents)
                new = (donors < 0) & (places >= 0)
                if not new.any():
                    continue
                found.verify()
        except StoreError as error:
            log.warning("no rows are copied from %s: %s", candidate, error)
            continue
        donors[new] = len(paths)
        rows[new] = places[new]
        paths.append(candidate)
    return Copies(paths, donors, rows) if paths else None


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
