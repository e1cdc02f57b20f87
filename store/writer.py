"""The writer: a feature set in the making, what is kept of it when a run ends early, and its stamp."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checked_chunk
from featurebank.store._partial import PartialFile
from featurebank.store._parts import PARTS, digest, part_bytes, plain, rows_held
from featurebank.store.errors import NonFiniteError
from featurebank.store.reader import FeatureSet
from featurebank.store.stamps import new_stamp

__all__ = ["FeatureSetWriter"]


class FeatureSetWriter(PartialFile):
    """Writes one feature set, resumably; made by `create` or `resume`.

    Threads may call `write_chunk`, `mark_ok`, `mark_failed` and `commit` at the same time; one writer at a time has the
    file. After a crash at any moment `resume` finds every chunk that was committed; the rest is `pending`. Mark rows
    before the `commit` that makes their chunks valid, so that both survive together.

    As a context manager it commits on a clean exit and closes; only `seal` makes a feature set of it.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from featurebank.store import Output, Records
    >>> records = Records(ids=["a", "b"], labels=np.array([0, 1]), content_hash=np.zeros((2, 16), np.uint8))
    >>> path = Path(tempfile.mkdtemp()) / "example.h5"
    >>> with FeatureSetWriter.create(
    ...     path, key={"example": 1}, outputs=[Output(name="pooled", shape=(3,))], records=records
    ... ) as writer:
    ...     writer.write_chunk("pooled", 0, np.ones((2, 3), np.float16))
    ...     writer.mark_ok(0, 2)
    ...     feature_set = writer.seal()
    >>> feature_set["pooled"].tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def held(self, name: str) -> NDArray[np.bool_]:
        """(N,) True where a row of an output is committed, in a valid chunk or in one that is filled in part."""
        return rows_held(self._entry(name), ~self.pending(name), self._parts)

    def part(self, name: str, index: int) -> tuple[NDArray[np.bool_], NDArray[Any]] | None:
        """What `keep_parts` kept of a chunk that is pending: which of its rows, and the chunk's values."""
        rows = self._parts.get((name, index))
        if rows is None or not self.pending(name)[index]:
            return None
        entry = self._entry(name)
        values = part_bytes(self._disk, entry, index).view(entry.values.dtype)
        return rows, values.reshape(len(rows), *entry.values.shape[1:])

    def keep_parts(self, parts: Mapping[tuple[str, int], tuple[NDArray[np.bool_], NDArray[Any]]]) -> None:
        """Commits everything, and of pending chunks the rows that are there: before a run ends early.

        Args:
            parts: output and chunk to (rows,) True where a row is there, and the chunk's values; those of other rows
                mean nothing. A part that is not finite is left out.

        Raises:
            StorageError: the disk fails; what was committed before stays valid.
        """
        self.commit()
        for (name, index), (rows, values) in parts.items():
            entry = self._entry(name)
            blank = np.where(rows.reshape(-1, *[1] * (values.ndim - 1)), values, np.zeros((), values.dtype))
            with contextlib.suppress(NonFiniteError):
                data = checked_chunk(self.partial_path, entry, index, blank)
                self._disk.write(entry.values.address + index * entry.chunk_stride, data)
                self._parts[name, index] = rows
        self._disk.sync()
        told = {
            place: (rows, digest(part_bytes(self._disk, self._entry(place[0]), place[1]), rows))
            for place, rows in self._parts.items()
            if self.pending(place[0])[place[1]]
        }
        self.set_provenance({**self.manifest["provenance"], PARTS: plain(told)})
        self._disk.sync()

    def seal(self, provenance: Mapping[str, Any] | None = None) -> FeatureSet:
        """Commits, sets every digest, marks the file sealed, gives it its name, and opens it; closes the writer.

        The same records, key and chunks give the same bytes, but for the provenance. In a store, that has the time of
        the seal and the store's mark.

        Args:
            provenance: Instead of the one that the partial has.

        Raises:
            IncompleteError: chunks are pending or rows unmarked; the text names them.
            ExistsError: the final path has come into being meanwhile.
        """
        digests = self._digests()
        sums = [self._disk.read(e.checksums.address, e.checksums.nbytes).tobytes() for e in self._entries.values()]
        stamp = new_stamp(self.path, self.manifest["key"], digests + b"".join(sums))
        self._seal(digests, {**(self.manifest["provenance"] if provenance is None else provenance), **stamp})
        return FeatureSet(self.path)
