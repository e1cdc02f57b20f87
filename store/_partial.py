"""A partial: whole chunks at known addresses, checksums after the data is on the disk, then the seal."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featurebank.store import _header, _manifest, limits
from featurebank.store._chunks import checked_chunk, checksum, holds
from featurebank.store._claiming import claim, is_there
from featurebank.store._disk import Disk, lock
from featurebank.store._header import Header
from featurebank.store._identity import check_known, check_named, settled, taken_back
from featurebank.store._layout import LARGEST_CHUNK, Contents, lay_out
from featurebank.store._names import check_file_name, final_path, partial_path
from featurebank.store._opening import read_partial
from featurebank.store._parts import PARTS, Parts, read_parts
from featurebank.store._records import (
    Output,
    Records,
    checked_head,
    checked_outputs,
    checked_records,
    first_few,
    quantity,
)
from featurebank.store._table import Array, OutputEntry
from featurebank.store.errors import (
    ExistsError,
    IncompleteError,
    InvalidInputError,
    NotFoundError,
    unknown_name,
)
from featurebank.store.fingerprint import fingerprint

MISSING, OK, FAILED = 0, 1, 2
_WRITEBACK_BYTES = 128 << 20


class PartialFile:
    """What `featurebank.store.FeatureSetWriter` is made of: one partial, written by chunks, and sealed."""

    def __init__(self, path: Path, disk: Disk, header: Header, manifest: dict[str, Any]) -> None:
        self.path = path
        self.partial_path = partial_path(path)
        self.manifest = manifest
        self._disk = disk
        self._header = header
        self._entries: dict[str, OutputEntry] = {entry.name: entry for entry in header.table.outputs}
        self._recorded = {name: np.zeros(entry.n_chunks, np.uint64) for name, entry in self._entries.items()}
        self._attempts = {name: np.zeros(entry.n_chunks, np.int64) for name, entry in self._entries.items()}
        self._written: dict[tuple[str, int], tuple[int, int]] = {}
        self._parts: Parts = {}
        self._waiting = 0
        self._status = disk.read(self._array("status").address, self.n_rows)
        self._with_reason: NDArray[np.bool_] = np.zeros(self.n_rows, np.bool_)
        self._guard = threading.Lock()
        self._committing = threading.Lock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        key: Mapping[str, Any],
        outputs: Sequence[Output],
        records: Records,
        head: tuple[NDArray[Any], NDArray[Any]] | None = None,
        provenance: Mapping[str, Any] | None = None,
        chunk_bytes: int = 2 << 20,
    ) -> Self:
        """Lays out ``path`` + ``.partial`` completely and opens it for writing.

        Args:
            path: The final path, ``….h5``.
            key: Everything that determines the numbers, as plain JSON; its fingerprint goes into the file.
            outputs: The outputs, at least one.
            records: The N records, at least one.
            head: The classifier's weight (C, D) and bias (C,), float16 or float32.
            provenance: What did not determine the numbers, as plain JSON; may change until the seal.
            chunk_bytes: The size to aim at, up to 16 MiB; chunks are whole pages and at most 2,048 rows.

        Raises:
            InvalidInputError: something handed in cannot be stored.
            TypeError: the key or the provenance is no plain JSON.
            ExistsError: ``path`` or its partial already exists.
            StorageError: the disk is full, read-only, …; nothing is left behind.
        """
        path = final_path(path)
        if not 1 <= chunk_bytes <= LARGEST_CHUNK:
            raise InvalidInputError(f"chunk_bytes must be 1 to {LARGEST_CHUNK}; found {chunk_bytes}")
        arrays, columns = checked_records(records)
        contents = Contents(
            key=key,
            provenance=provenance or {},
            outputs=checked_outputs(outputs),
            records=arrays,
            columns=columns,
            head=checked_head(head),
            chunk_bytes=chunk_bytes,
        )
        check_file_name(path, fingerprint(key))
        check_absent(path)
        disk = lay_out(partial_path(path), contents)
        text = _manifest.encode(key, contents.provenance)
        return cls(path, disk, _header.read_header(disk), _manifest.decode(text))

    @classmethod
    def resume(cls, path: str | os.PathLike[str]) -> Self:
        """Opens the partial of ``path``, hashes every chunk that has a checksum, and goes on from there.

        Raises:
            NotFoundError: there is no partial.
            ExistsError: ``path`` is already sealed.
            LockedError: another writer has it.
            CorruptError: the header or the key is damaged; delete the partial and extract again.
        """
        path = final_path(path)
        check_absent(path)
        disk = Disk(partial_path(path), writable=True)
        try:
            lock(disk)
            _check_still_there(disk)
            taken_back(disk)
            check_named(disk, _header.read_header(disk))
            header, manifest = read_partial(disk)
            if header.state == _header.SEALED:
                # The crash came between seal and rename: sealing again gives the same bytes.
                disk.write(_header.STATE, bytes([_header.PARTIAL]))
            writer = cls(path, disk, header, manifest)
            writer._load_progress()
        except BaseException:
            disk.close()
            raise
        return writer

    @property
    def n_rows(self) -> int:
        """The number of records."""
        return self._header.table.n_rows

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key."""
        return self._header.table.fingerprint

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs, in the order they were given."""
        return self._header.table.described()

    @property
    def status(self) -> NDArray[np.uint8]:
        """A copy of the rows' status (N,): 0 missing, 1 ok, 2 failed."""
        return self._status.copy()

    def chunk_rows(self, name: str) -> int:
        """Rows per chunk of an output; the last chunk may hold fewer."""
        return self._entry(name).chunk_rows

    def n_chunks(self, name: str) -> int:
        """The number of chunks of an output."""
        return self._entry(name).n_chunks

    def pending(self, name: str) -> NDArray[np.bool_]:
        """(chunks,) True where a chunk has no valid checksum yet: not written, or not committed."""
        self._entry(name)
        with self._guard:
            pending: NDArray[np.bool_] = self._recorded[name] == 0
        return pending

    def write_chunk(self, name: str, index: int, values: NDArray[Any]) -> None:
        """Writes one whole chunk at its address.

        Args:
            name: The output.
            index: The chunk.
            values: ``(rows of this chunk, *row shape)``, of the output's dtype. Failed rows must be finite too: zeros.

        Raises:
            NonFiniteError: NaN or infinity, naming the rows.
            InvalidInputError: another dtype or shape, or no such chunk.
            StorageError: the disk is full or fails; committed chunks stay valid.
        """
        entry = self._entry(name)
        data = checked_chunk(self.partial_path, entry, index, values)
        with self._guard:
            self._check_open()
            self._recorded[name][index] = 0
            self._attempts[name][index] += 1
            attempt = int(self._attempts[name][index])
        self._disk.write(entry.values.address + index * entry.chunk_stride, data)
        digest = checksum(data)
        with self._guard:
            self._written[name, index] = (attempt, digest)
            self._waiting += entry.chunk_stride
            much = self._waiting >= _WRITEBACK_BYTES
            self._waiting = 0 if much else self._waiting
        if much:
            self._disk.begin_writeback()

    def mark_ok(self, start: int, stop: int) -> None:
        """Rows ``start`` up to ``stop`` hold features."""
        if not 0 <= start <= stop <= self.n_rows:
            raise InvalidInputError(f"rows must lie within 0 to {self.n_rows}; found {start} to {stop}")
        with self._guard:
            self._check_open()
            for row in (start + np.flatnonzero(self._with_reason[start:stop])).tolist():
                self._write_reason(row, b"")
            self._with_reason[start:stop] = False
            self._write_status(start, np.full(stop - start, OK, np.uint8))

    def mark_failed(self, row: int, reason: str) -> None:
        """A row has no features, for ``reason``, of which 96 UTF-8 bytes are kept."""
        if not 0 <= row < self.n_rows:
            raise InvalidInputError(f"a row must lie within 0 to {self.n_rows - 1}; found {row}")
        text = reason.replace("\0", " ").encode("utf-8", "replace")[: limits.REASON_BYTES].decode("utf-8", "ignore")
        with self._guard:
            self._check_open()
            self._write_reason(row, text.encode("utf-8"))
            self._with_reason[row] = True
            self._write_status(row, np.full(1, FAILED, np.uint8))

    def commit(self) -> int:
        """Makes what was written durable, and only then records its checksums; returns how many.

        A chunk written while a commit runs belongs to the next one.

        Raises:
            StorageError: the disk fails; the chunks of this commit must be written again.
        """
        with self._committing:
            with self._guard:
                self._check_open()
                batch, self._written = self._written, {}
                self._waiting = 0
            if not batch:
                return 0
            self._disk.sync()
            for (name, index), (_, digest) in batch.items():
                self._disk.write(self._entries[name].checksums.address + 8 * index, digest.to_bytes(8, "little"))
            with self._guard:
                for (name, index), (attempt, digest) in batch.items():
                    # A chunk that is being written again meanwhile stays pending.
                    if self._attempts[name][index] == attempt:
                        self._recorded[name][index] = digest
            return len(batch)

    def set_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Replaces the provenance in the manifest.

        Raises:
            InvalidInputError: it is too long for the room that was set aside, at least 64 KiB.
            TypeError: it is no plain JSON.
        """
        text = _manifest.encode(self.manifest["key"], provenance)
        array = self._header.table.manifest
        if len(text) > array.nbytes:
            raise InvalidInputError(
                f"{self.partial_path}: key and provenance must fit into {array.nbytes} bytes; found {len(text)}; "
                f"give the largest provenance at creation, or shorten it"
            )
        with self._guard:
            self._check_open()
            fixed = len(_manifest.encode(self.manifest["key"], {})) - len("{}}")
            self._disk.write(array.address + fixed, text.ljust(array.nbytes)[fixed:])
            self.manifest = _manifest.decode(text)

    def seal_as_it_is(self) -> None:
        """Commits, sets every digest, marks the file sealed, and gives it its name; closes the writer.

        Raises:
            IncompleteError: chunks are pending or rows unmarked; the text names them.
            ExistsError: the final path has come into being meanwhile.
        """
        self._seal(self._digests(), self.manifest["provenance"])

    def close(self) -> None:
        """Gives the partial back; what was not committed is pending at the next `resume`."""
        self._disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._disk.is_open:
                self.commit()
        finally:
            self.close()

    def __repr__(self) -> str:
        names = ", ".join(self._entries)
        return f"FeatureSetWriter({str(self.path)!r}, {quantity(self.n_rows, 'row')}, outputs: {names})"

    def _digests(self) -> bytes:
        """The digests of the small arrays of a partial that is complete, everything committed."""
        self.commit()
        self._check_complete()
        return b"".join(_header.array_digest(self._disk, array) for array in self._header.table.digested)

    def _seal(self, digests: bytes, provenance: Mapping[str, Any]) -> None:
        check_known(self._disk, self.manifest["key"])
        self.set_provenance({name: value for name, value in provenance.items() if name != PARTS})
        _header.seal(self._disk, self._header, digests)
        settled(self._disk, self._header)
        # Both names are the same file; a crash in between leaves the partial's to `FeatureStore.gc`.
        claim(self.partial_path, self.path)
        with contextlib.suppress(OSError):
            self.partial_path.unlink()
        self.close()

    def _array(self, record: str) -> Array:
        return self._header.table.records[record]

    def _entry(self, name: str) -> OutputEntry:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown_name("output", name, self._entries, where=str(self.partial_path)) from None

    def _check_open(self) -> None:
        if not self._disk.is_open:
            raise InvalidInputError(f"the writer of {self.partial_path} is closed; resume to go on writing")

    def _check_complete(self) -> None:
        missing = [
            f"{quantity(int(pending.sum()), 'chunk')} of {name!r} ({first_few(np.flatnonzero(pending))})"
            for name in self._entries
            if (pending := self.pending(name)).any()
        ]
        if (rows := np.flatnonzero(self._status == MISSING)).size:
            missing.append(f"the status of {quantity(len(rows), 'row')} ({first_few(rows)})")
        if missing:
            raise IncompleteError(
                f"{self.partial_path} must be complete to be sealed; missing: {'; '.join(missing)}; "
                f"write and mark them first"
            )

    def _write_status(self, start: int, status: NDArray[np.uint8]) -> None:
        self._disk.write(self._array("status").address + start, status)
        self._status[start : start + len(status)] = status

    def _write_reason(self, row: int, text: bytes) -> None:
        self._disk.write(
            self._array("reason").address + limits.REASON_BYTES * row, text.ljust(limits.REASON_BYTES, b"\0")
        )

    def _load_progress(self) -> None:
        reason = self._array("reason")
        width, step = reason.nbytes // self.n_rows, 1 << 16
        for start in range(0, self.n_rows, step):
            rows = min(step, self.n_rows - start)
            reasons = self._disk.read(reason.address + start * width, rows * width).reshape(rows, width)
            self._with_reason[start : start + rows] = reasons.any(axis=1)
        for name, entry in self._entries.items():
            on_disk = self._disk.read(entry.checksums.address, entry.checksums.nbytes).view("<u8")
            for index, expected in enumerate(on_disk.tolist()):
                if holds(self._disk, entry, index, expected):
                    self._recorded[name][index] = expected
        self._parts = read_parts(self._disk, self._header.table, self.manifest["provenance"])


def check_absent(path: Path) -> None:
    """Raises ExistsError where something has the name of a sealed set."""
    if os.path.lexists(path):
        raise ExistsError(f"{path} already exists: it is sealed and never written again; open it, or delete it first")


def _check_still_there(disk: Disk) -> None:
    # Between opening and locking, the writer that had the lock may have sealed and renamed the file.
    if not is_there(disk):
        raise NotFoundError(f"{disk.path} is gone: another writer has sealed or deleted it meanwhile; look again")
