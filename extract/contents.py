"""What is known of a split's contents in one run: by files' stamps at first, then from the very bytes that are decoded.

A set whose contents are not all known is begun under a provisional key, in which ids, labels and sizes stand for the
contents. Equal contents have equal sizes, so that whoever makes the same set finds the same unfinished file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets.contract import DatasetSpec, Split, Stamped
from featurebank.store import FeatureSet, FeatureSetWriter, StoreError
from featurebank.store.fingerprint import content_hash, provisional, records_digest

__all__ = ["SAVE_SECONDS", "Contents", "Part", "Raw", "are_likely_there", "recall"]

Raw: TypeAlias = bytes | NDArray[np.uint8]

FEW: Final = 0.01
"""Where no larger share of all contents is unknown, these are read first, and then all are known."""
SAVE_SECONDS: Final = 30.0
SAMPLE: Final = 64
REQUESTS: Final = 32
"""Of contents, under way at once, where storage is waited for."""
BLOCK: Final = 16


class Contents:
    """The content hashes of a split, as far as they are known.

    Args:
        split: what it is about.

    Attributes:
        hashes: (N, 16) XXH3-128 of each record's content, all zero where it is not known or cannot be read.
        known: (N,) which of them are known. Both are filled in place while records are read.
        stand_in: what stands for their digest in a provisional key; empty where contents are always known.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self.stand_in = ""
        if isinstance(split, Stamped):
            hashes, known, sizes = split.known_hashes()
            wide = np.zeros((len(sizes), 16), np.uint8)
            wide[:, :8] = np.ascontiguousarray(sizes, "<i8").view(np.uint8).reshape(-1, 8)
            self.stand_in = provisional(records_digest(split.ids, split.labels, wide))
            self.hashes, self.known = hashes.copy(), known.copy()
        else:
            self.hashes, self.known = split.content_hashes(), np.ones(len(split), np.bool_)
        self._saved = self.known.copy()
        self._when = time.monotonic()

    @property
    def whole(self) -> bool:
        """Whether all of them are known."""
        return bool(self.known.all())

    @property
    def nearly_whole(self) -> bool:
        """Whether so few are unknown that reading these twice is nothing."""
        return int(np.count_nonzero(~self.known)) <= FEW * len(self.known)

    def digest(self) -> str:
        """Of all ids, labels and contents, as the key has it; all must be known."""
        return records_digest(self._split.ids, self._split.labels, self.hashes)

    def read(self, rows: NDArray[np.bool_] | None = None) -> None:
        """Reads the records (N,) that are not known yet, to hash them; all of them by default."""
        if rows is None and not self.known.any():
            self.hashes[:], self.known[:] = self._split.content_hashes(), True
            self._saved[:] = True
            return
        missing = np.flatnonzero(~self.known if rows is None else rows & ~self.known)
        if not missing.size:
            return
        blocks = [missing[first : first + BLOCK].tolist() for first in range(0, len(missing), BLOCK)]
        with ThreadPoolExecutor(REQUESTS, "hash") as pool:
            digests = b"".join(pool.map(self._digests, blocks))
        self.hashes[missing] = np.frombuffer(digests, np.uint8).reshape(-1, 16)
        self.known[missing] = True
        self.save()

    def save(self, *, every: float = 0.0) -> None:
        """Has the split remember what has become known, if the last time was some seconds ago."""
        if time.monotonic() - self._when < every or not isinstance(self._split, Stamped):
            return
        self._when = time.monotonic()
        rows = np.flatnonzero(self.known & ~self._saved)
        self._split.learn(rows, self.hashes[rows])
        self._saved[rows] = True

    def _digests(self, rows: Sequence[int]) -> bytes:
        digests = []
        for row in rows:
            try:
                digests.append(content_hash(self._split.read(row)))
            except OSError:
                digests.append(bytes(16))
        return b"".join(digests)


class Part:
    """Some records of a split, in an order, with the contents that the key was or will be made from.

    Args:
        split: the records.
        rows: (n,) which of them; ``None`` for all.
        hashes: (n, 16) their content hashes, where they are known already.
        known: (n,) whether they are; all by default. What is not known yet is filled in when it is read.
    """

    def __init__(
        self,
        split: Split,
        rows: NDArray[np.int64] | None = None,
        hashes: NDArray[np.uint8] | None = None,
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        self._split = split
        self.rows = rows
        if hashes is None:
            hashes = split.content_hashes() if rows is None else split.content_hashes()[rows]
        self.hashes = hashes
        self.known = np.ones(len(hashes), np.bool_) if known is None else known

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def spec(self) -> DatasetSpec:
        """The split's."""
        return self._split.spec

    def take(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The split's rows, and their hashes, at positions [start, stop)."""
        rows = np.arange(start, stop) if self.rows is None else self.rows[start:stop]
        return rows, self.hashes[start:stop]

    def read(self, position: int) -> Raw:
        """The content of one record.

        Raises:
            OSError: it cannot be read.
        """
        return self._split.read(self._row(position))

    def learn(self, position: int, digest: bytes) -> None:
        """The content hash of one record that was not known, all zero if it cannot be read."""
        self.hashes[position] = np.frombuffer(digest, np.uint8)
        self.known[position] = True

    def id(self, position: int) -> str:
        """The id of one record."""
        return self._split.ids[self._row(position)]

    def _row(self, position: int) -> int:
        return position if self.rows is None else int(self.rows[position])


def are_likely_there(path: Path, ids: Sequence[str]) -> bool:
    """Whether a store probably has some of a split's images from the same backbone, so that rows could be copied.

    It has where a sealed set lies in the same folder, or where another set of the backbone has some of the ids.

    Args:
        path: where a set of the split would lie.
        ids: of the split.
    """
    if any(path.parent.glob("*.h5")):
        return True
    known: set[str] = set()
    for other in path.parents[3].glob(f"*/*/{path.parent.name}/*.h5"):
        known = known or set(ids)
        with suppress(StoreError), FeatureSet(other, within=path.parents[3]) as there:
            rows = np.unique(np.linspace(0, len(there) - 1, SAMPLE).astype(np.intp))
            encoded = there.raw(there.table.records["id"]).view(there.table.records["id"].dtype)[rows]
            if not known.isdisjoint(np.char.decode(encoded, "utf-8").tolist()):
                return True
    return False


def recall(writer: FeatureSetWriter, contents: Contents) -> None:
    """Rows of an unfinished set whose contents are others by now are pending again, with the chunks they are in."""
    held = np.zeros(writer.n_rows, np.bool_)
    for output in writer.outputs:
        held |= writer.held(output.name)
    contents.read(held)
    changed = held & (writer.content_hash != contents.hashes).any(axis=1)
    if changed.any():
        writer.forget(changed)
