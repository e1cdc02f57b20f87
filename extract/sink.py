"""From rows in any order to whole chunks on disk: one thread assembles, hashes, writes and syncs for all feature sets.

Writing never blocks a forward pass: rows go into a bounded queue, and only a disk slower than the networks fills it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.plan import Rows
from featurebank.extract.progress import Clock
from featurebank.extract.reuse import Copies, runs
from featurebank.store import FeatureSetWriter, InvalidInputError

__all__ = ["Assembler", "Passing", "Scattered", "Sink", "Target", "pending_rows"]

Arrays = Mapping[str, NDArray[np.generic]]

KEEP_SECONDS: Final = 30.0
"""So much of the work on chunks that are not full may be lost at most."""


class Target(Protocol):
    """Where the rows of one feature set go."""

    error: Exception | None
    """Why it takes no more rows."""

    def add(self, start: int, outputs: Arrays, failed: Mapping[int, str]) -> None:
        """Takes rows [start, start + B) of every output; ``failed`` maps rows to reasons."""
        ...

    def commit(self) -> None:
        """Makes what was taken durable."""
        ...


@dataclass
class _Open:
    """One chunk that is being filled, and which of its rows are."""

    values: NDArray[np.generic]
    filled: NDArray[np.bool_]


class Assembler:
    """Collects the rows of one feature set and hands whole chunks to its writer.

    Only chunks without a valid checksum are collected; rows of the others are dropped on arrival. What an earlier run
    kept of a chunk is in it from the moment it is begun.

    Args:
        writer: of the feature set.
        copies: rows that need no computing: a chunk has them from the moment it is begun.
        hashes: (N, 16) content hashes, known for a row when it arrives, where the writer has not got them yet.
    """

    def __init__(
        self, writer: FeatureSetWriter, copies: Copies | None = None, hashes: NDArray[np.uint8] | None = None
    ) -> None:
        self.writer = writer
        self._hashes = hashes
        self._known = np.zeros(writer.n_rows, np.bool_) if copies is None else copies.mask
        missing = _missing(writer)
        self.copied = int(np.count_nonzero(missing & self._known))
        self.computed = 0
        self._to_compute = missing & ~self._known
        self.failed: dict[int, str] = {}
        self.error: Exception | None = None
        self.chunks_written = 0
        self._copies = copies
        self._kept_at = -math.inf
        self._pending = {output.name: writer.pending(output.name).copy() for output in writer.outputs}
        self._open: dict[tuple[str, int], _Open] = {}

    @property
    def done(self) -> int:
        """Rows that need no computing any more."""
        return self.writer.n_rows - int(np.count_nonzero(self._to_compute))

    @property
    def complete(self) -> bool:
        """Whether every chunk has been handed to the writer."""
        return not any(pending.any() for pending in self._pending.values())

    def copy(self, commit_seconds: float) -> None:
        """Marks the copied rows, and writes the chunks of which every row is there already.

        Raises:
            StoreError: the disk is full or fails; what was committed stays valid.
        """
        for start, stop in runs(np.flatnonzero(self._known)):
            self.writer.mark_ok(start, stop)
            self._tell(start, stop)
        last_commit = time.monotonic()
        for name, pending in self._pending.items():
            held = self._known | self.writer.held(name)
            for index in np.flatnonzero(pending).tolist():
                first, last = self._extent(name, index)
                if held[first:last].all():
                    self._write(name, index, self._begin(name, index).values)
                if time.monotonic() - last_commit >= commit_seconds:
                    self.commit()
                    last_commit = time.monotonic()
        if self.chunks_written:
            self.commit()

    def add(self, start: int, outputs: Arrays, failed: Mapping[int, str]) -> None:
        """See `Target`."""
        stop = start + len(next(iter(outputs.values())))
        self.writer.mark_ok(start, stop)
        self._tell(start, stop)
        for row, reason in failed.items():
            self.writer.mark_failed(row, reason)
            self.failed[row] = reason
        for name, values in outputs.items():
            self._add(name, start, stop, values, failed)
        self._to_compute[start:stop] = False
        self.computed += stop - start

    def commit(self) -> None:
        """See `Target`; at first and now and then, also rows of chunks that are not full."""
        self.writer.commit()
        if time.monotonic() - self._kept_at >= KEEP_SECONDS:
            self._kept_at = time.monotonic()
            # Where there are more parts than can be told of, nothing that was committed is lost.
            with contextlib.suppress(InvalidInputError):
                self.keep()

    def keep(self) -> int:
        """Commits also the rows of chunks that are not full, before a run ends early; how many rows are committed.

        Raises:
            StoreError: the disk is full or fails; what was committed stays valid.
        """
        some = {place: (chunk.filled.copy(), chunk.values) for place, chunk in list(self._open.items())}
        self.writer.keep_parts(some)
        return self.writer.n_rows - int(np.count_nonzero(_missing(self.writer)))

    def _tell(self, start: int, stop: int) -> None:
        if self._hashes is not None:
            self.writer.set_content_hash(start, self._hashes[start:stop])

    def _add(self, name: str, start: int, stop: int, values: NDArray[np.generic], failed: Mapping[int, str]) -> None:
        rows = self.writer.chunk_rows(name)
        for index in range(start // rows, (stop - 1) // rows + 1):
            if not self._pending[name][index]:
                continue
            first, last = self._extent(name, index)
            chunk = self._open.get((name, index))
            if chunk is None:
                chunk = self._open[name, index] = self._begin(name, index)
            a, b = max(start, first), min(stop, last)
            chunk.values[a - first : b - first] = values[a - start : b - start]
            for row in failed:
                if a <= row < b:
                    chunk.values[row - first] = 0
            chunk.filled[a - first : b - first] = True
            if chunk.filled.all():
                self._write(name, index, chunk.values)
                del self._open[name, index]

    def _begin(self, name: str, index: int) -> _Open:
        first, last = self._extent(name, index)
        output = next(output for output in self.writer.outputs if output.name == name)
        chunk = _Open(np.empty((last - first, *output.shape), output.dtype), np.zeros(last - first, np.bool_))
        if (part := self.writer.part(name, index)) is not None:
            rows, values = part
            chunk.values[rows] = values[rows]
            chunk.filled |= rows
        if self._copies is not None:
            known = np.flatnonzero(self._known[first:last])
            chunk.values[known] = self._copies.values(name, first + known)
            chunk.filled[known] = True
        return chunk

    def _write(self, name: str, index: int, values: NDArray[np.generic]) -> None:
        self.writer.write_chunk(name, index, values)
        self._pending[name][index] = False
        self.chunks_written += 1

    def _extent(self, name: str, index: int) -> tuple[int, int]:
        rows = self.writer.chunk_rows(name)
        return index * rows, min((index + 1) * rows, self.writer.n_rows)


class Passing:
    """Hands rows on to an assembler, or to what hands them on to it; a base.

    Args:
        assembler: of the feature set.
    """

    def __init__(self, assembler: Target) -> None:
        self.assembler = assembler

    @property
    def error(self) -> Exception | None:
        """See `Target`."""
        return self.assembler.error

    @error.setter
    def error(self, error: Exception | None) -> None:
        self.assembler.error = error

    def commit(self) -> None:
        """See `Target`."""
        self.assembler.commit()


class Scattered(Passing):
    """Hands the rows of a walk over some of a split's rows to an assembler, each to its own place.

    Args:
        assembler: of the feature set, or what hands rows on to it.
        rows: (n,) the split's row at each position of the walk, ascending.
    """

    def __init__(self, assembler: Target, rows: NDArray[np.int64]) -> None:
        super().__init__(assembler)
        self._rows = rows

    def add(self, start: int, outputs: Arrays, failed: Mapping[int, str]) -> None:
        """See `Target`; rows count positions of the walk."""
        n = len(next(iter(outputs.values())))
        rows = self._rows[start : start + n]
        at = 0
        for first, last in runs(rows):
            part = slice(at, at + last - first)
            reasons = {first + p - start - at: failed[p] for p in failed if part.start <= p - start < part.stop}
            self.assembler.add(first, {name: values[part] for name, values in outputs.items()}, reasons)
            at = part.stop


@dataclass
class _Rows:
    target: Target
    start: int
    fetch: Callable[[], Arrays]
    failed: Mapping[int, str]


@dataclass
class Sink:
    """The writing thread. Use it as a context manager; leaving it normally drains the queue.

    What goes wrong with the rows of one feature set, such as a value that is not finite, ends that set only. An error
    of the disk ends the run: it is kept in ``error``, and everything committed stays valid.

    Attributes:
        clock: where busy seconds go.
        capacity: batches that may wait.
        commit_seconds: how often finished chunks are synced and their checksums recorded.
        error: what ended the thread, if something did.
    """

    clock: Clock
    capacity: int
    commit_seconds: float = 1.0
    error: BaseException | None = None
    _queue: queue.Queue[_Rows | None] = field(init=False)
    _touched: set[Target] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._queue = queue.Queue(self.capacity)
        self._thread = threading.Thread(target=self._run, name="featurebank-write", daemon=True)

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def put(self, target: Target, start: int, fetch: Callable[[], Arrays], failed: Mapping[int, str]) -> None:
        """Queues rows; ``fetch`` is called in the writing thread and may wait for a device."""
        self._queue.put(_Rows(target, start, fetch, failed))

    def _run(self) -> None:
        last_commit = -math.inf
        while True:
            with contextlib.suppress(queue.Empty):
                item = self._queue.get(timeout=self.commit_seconds)
                if item is None:
                    self._guard(self._commit)
                    return
                self._guard(functools.partial(self._take, item))
            if time.monotonic() - last_commit >= self.commit_seconds:
                self._guard(self._commit)
                last_commit = time.monotonic()

    def _guard(self, action: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except BaseException as error:
            self.error = error

    def _take(self, rows: _Rows) -> None:
        if rows.target.error is not None:
            return
        with _alone(rows.target):
            with self.clock.stage("forward"):
                outputs = rows.fetch()
            with self.clock.stage("write"):
                rows.target.add(rows.start, outputs, rows.failed)
        self._touched.add(rows.target)

    def _commit(self) -> None:
        with self.clock.stage("write"):
            for target in self._touched:
                with _alone(target):
                    target.commit()
        self._touched.clear()


@contextlib.contextmanager
def _alone(target: Target) -> Iterator[None]:
    try:
        yield
    except OSError:  # of the disk
        raise
    except Exception as error:
        target.error = error


def pending_rows(writer: FeatureSetWriter) -> Rows:
    """The rows that are not committed in every output."""
    return tuple(runs(np.flatnonzero(_missing(writer))))


def _missing(writer: FeatureSetWriter) -> NDArray[np.bool_]:
    missing = np.zeros(writer.n_rows, np.bool_)
    for output in writer.outputs:
        missing |= ~writer.held(output.name)
    return missing
