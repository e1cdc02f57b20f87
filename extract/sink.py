"""From rows in any order to whole chunks on disk: one thread assembles, hashes, writes and syncs for all feature sets.

Writing never blocks a forward pass: rows go into a bounded queue, and only a disk slower than the networks fills it.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.plan import Rows, merge
from featurebank.extract.progress import Clock
from featurebank.store import FeatureSetWriter, NonFiniteError

__all__ = ["Assembler", "Sink", "pending_rows"]

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass
class _Open:
    """One chunk that is being filled."""

    values: NDArray[np.generic]
    missing: int


class Assembler:
    """Collects the rows of one feature set and hands whole chunks to its writer.

    Only chunks without a valid checksum are collected; rows of the others are dropped on arrival.
    """

    def __init__(self, writer: FeatureSetWriter) -> None:
        self.writer = writer
        self.done = writer.n_rows - sum(stop - start for start, stop in pending_rows(writer))
        self.failed: dict[int, str] = {}
        self.error: Exception | None = None
        self.chunks_written = 0
        self._pending = {output.name: writer.pending(output.name).copy() for output in writer.outputs}
        self._open: dict[tuple[str, int], _Open] = {}

    @property
    def complete(self) -> bool:
        """Whether every chunk has been handed to the writer."""
        return not any(pending.any() for pending in self._pending.values())

    def add(self, start: int, outputs: Arrays, failed: Mapping[int, str]) -> None:
        """Takes rows [start, start + B) of every output; ``failed`` maps absolute rows to reasons."""
        stop = start + len(next(iter(outputs.values())))
        self.writer.mark_ok(start, stop)
        for row, reason in failed.items():
            self.writer.mark_failed(row, reason)
            self.failed[row] = reason
        for name, values in outputs.items():
            self._add(name, start, stop, values, failed)
        self.done += stop - start

    def _add(self, name: str, start: int, stop: int, values: NDArray[np.generic], failed: Mapping[int, str]) -> None:
        rows = self.writer.chunk_rows(name)
        for index in range(start // rows, (stop - 1) // rows + 1):
            if not self._pending[name][index]:
                continue
            first, last = index * rows, min((index + 1) * rows, self.writer.n_rows)
            chunk = self._open.get((name, index))
            if chunk is None:
                empty = np.empty((last - first, *values.shape[1:]), values.dtype)
                chunk = self._open[name, index] = _Open(empty, last - first)
            a, b = max(start, first), min(stop, last)
            chunk.values[a - first : b - first] = values[a - start : b - start]
            for row in failed:
                if a <= row < b:
                    chunk.values[row - first] = 0
            chunk.missing -= b - a
            if chunk.missing == 0:
                self.writer.write_chunk(name, index, chunk.values)
                self._pending[name][index] = False
                self.chunks_written += 1
                del self._open[name, index]


@dataclass
class _Rows:
    assembler: Assembler
    start: int
    fetch: Callable[[], Arrays]
    failed: Mapping[int, str]


@dataclass
class Sink:
    """The writing thread. Use it as a context manager; leaving it normally drains the queue.

    A value that is not finite ends that feature set only; any other error of the disk ends the run: it is kept in
    ``error`` and everything committed stays valid.

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
    _touched: set[Assembler] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._queue = queue.Queue(self.capacity)
        self._thread = threading.Thread(target=self._run, name="featurebank-write", daemon=True)

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def put(self, assembler: Assembler, start: int, fetch: Callable[[], Arrays], failed: Mapping[int, str]) -> None:
        """Queues rows; ``fetch`` is called in the writing thread and may wait for a device."""
        self._queue.put(_Rows(assembler, start, fetch, failed))

    def _run(self) -> None:
        last_commit = time.monotonic()
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
        if rows.assembler.error is not None:
            return
        with self.clock.stage("forward"):
            outputs = rows.fetch()
        with self.clock.stage("write"):
            try:
                rows.assembler.add(rows.start, outputs, rows.failed)
            except NonFiniteError as error:
                rows.assembler.error = error
        self._touched.add(rows.assembler)

    def _commit(self) -> None:
        with self.clock.stage("write"):
            for assembler in self._touched:
                assembler.writer.commit()
        self._touched.clear()


def pending_rows(writer: FeatureSetWriter) -> Rows:
    """The rows that lie in a chunk, of any output, without a valid checksum."""
    ranges: list[Rows] = []
    for output in writer.outputs:
        rows = writer.chunk_rows(output.name)
        indices = np.flatnonzero(writer.pending(output.name)).tolist()
        ranges.append(tuple((i * rows, min((i + 1) * rows, writer.n_rows)) for i in indices))
    return merge(*ranges)
