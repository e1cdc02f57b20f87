"""The writer: a feature set in the making, what is kept of it when a run ends early, and its stamp."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checked_chunk
from featurebank.store._identity import identified
from featurebank.store._names import check_file_name, final_path
from featurebank.store._partial import PartialFile, check_absent
from featurebank.store._parts import PARTS, digest, part_bytes, plain, rows_held
from featurebank.store.errors import NonFiniteError
from featurebank.store.fingerprint import fingerprint, is_provisional
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

    @property
    def is_provisional(self) -> bool:
        """Whether its key stands in for that of contents that are not known yet."""
        return is_provisional(self.manifest["key"])

    @property
    def content_hash(self) -> NDArray[np.uint8]:
        """(N, 16) The content hashes as the file has them: of rows without features they may mean nothing yet."""
        array = self._array("content_hash")
        return self._disk.read(array.address, array.nbytes).reshape(array.shape)

    def set_content_hash(self, start: int, hashes: NDArray[np.uint8]) -> None:
        """Of a partial with a provisional key: the content hashes (n, 16) of the rows from ``start`` on.

        Set them before the `commit` that makes the rows' chunks valid, so that both survive together.
        """
        self._disk.write(self._array("content_hash").address + 16 * start, np.ascontiguousarray(hashes))

    def forget(self, rows: NDArray[np.bool_]) -> None:
        """Every committed chunk that has one of the rows (N,) is pending again, durably."""
        self.commit()
        with self._guard:
            for name, entry in self._entries.items():
                for index in np.unique(np.flatnonzero(rows) // entry.chunk_rows).tolist():
                    self._disk.write(entry.checksums.address + 8 * index, bytes(8))
                    self._recorded[name][index] = 0
                    self._parts.pop((name, index), None)
        self.keep_parts({})

    def identify(self, path: str | os.PathLike[str], key: Mapping[str, Any]) -> None:
        """Gives a partial with a provisional key its own, now that all contents are known, and a place to be sealed at.

        Args:
            path: The final path of the key, in the same folder.
            key: The provisional key with the digest of the contents.

        Raises:
            InvalidInputError: the keys differ in more than that digest, or the path is that of another key.
            ExistsError: there is a sealed set of that key.
            StorageError: the disk is full or fails; the partial is what it was, and can be resumed.
        """
        path = final_path(path)
        check_file_name(path, fingerprint(key))
        check_absent(path)
        self.commit()
        self._header = identified(self._disk, self._header, key, self.manifest["provenance"])
        self.manifest, self.path = {**self.manifest, "key": dict(key)}, path

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
