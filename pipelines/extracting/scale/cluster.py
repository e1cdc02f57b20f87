"""Forward passes on a Dask cluster; the files stay with the process that asked for them.

Workers read, decode and compute; their rows come back to the one writer of each file, so that no two processes ever
write one chunk. A piece whose worker dies goes to another.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.compute import ComputeError, Facts, Recipe, Walk
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.plan import ROWS_PER_TASK, task_rows
from featurebank.extract.progress import Clock
from featurebank.extract.sink import Sink, Target
from featurebank.pipelines.extracting.scale.worker import (
    Collected,
    Extraction,
    Piece,
    describe,
    own_cores,
    shared_lanes,
    tell_provenance,
    walk_piece,
)

__all__ = ["Cluster", "ClusterError", "rows_per_piece"]

log = logging.getLogger("featurebank")

AHEAD = 2
"""Pieces a worker: one under way, one ready."""
PIECE_BYTES = 32 << 20
PIECE_BATCHES = 4
"""However large their rows: of a single batch decoding and computing would not overlap."""
POLL_SECONDS = 0.05
WATCH_SECONDS = 1.0


class ClusterError(ComputeError):
    """A piece ended several workers, or the cluster is gone."""


class Cluster:
    """A place where networks run, see `featurebank.extract.compute.Compute`; use it as a context manager.

    Args:
        client: of a Dask cluster whose workers see the images and weights under the same paths.
        splits: the splits of the run.
        device: a resolved one, of the workers.
        execution: lanes of each worker, and strictness.

    Attributes:
        cached: images whose pixels came from the workers' pixel cache, their files not read.
    """

    def __init__(self, client: Any, splits: Sequence[Split], device: str, execution: Execution) -> None:
        self.lanes = 1
        self.cached = 0
        self._client = client
        self._splits = splits
        self._run = f"featurebank-{secrets.token_hex(8)}"
        self._group = 0
        self._row_bytes: dict[BackboneSpec, int] = {}
        self._notes: dict[Recipe, str] = {}
        self._workers: set[str] = set()
        self._watched = 0.0
        self._extraction = Extraction(splits, device, execution)

    def __enter__(self) -> Cluster:
        self._extraction.lanes = shared_lanes(self._client.run(own_cores, on_error="ignore"))
        self._client.register_plugin(self._extraction, name=self._run)
        self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # A worker that dies just now has let go of it too.
            self._client.unregister_worker_plugin(self._run)

    def built(self, recipe: Recipe) -> bool:
        """See `Compute`."""
        return recipe.spec in self._row_bytes

    def facts(self, recipe: Recipe, images: NDArray[np.uint8] | None = None) -> Facts:
        """See `Compute`."""
        facts: Facts = self._result(self._submit(describe, self._group, recipe, images), recipe.spec.name)
        itemsize = np.dtype(recipe.dtype).itemsize
        self._row_bytes[recipe.spec] = itemsize * sum(math.prod(shape) for shape in facts.shapes.values())
        return facts

    def run(self, walk: Walk, sink: Sink, clock: Clock, poll: Callable[[int], None]) -> int:
        """See `Compute`."""
        pieces = self._pieces(walk)
        under_way: dict[Any, tuple[int, list[int]]] = {}
        images, more = 0, True
        try:
            while more or under_way:
                while more and len(under_way) < AHEAD * max(1, len(self._workers)):
                    if (item := next(pieces, None)) is None:
                        more = False
                        break
                    first, members, piece = item
                    under_way[self._submit(walk_piece, self._group, piece)] = (first, members)
                finished = [future for future in under_way if future.done()]
                for future in finished:
                    first, members = under_way.pop(future)
                    walked = self._result(future, f"rows {first} and following")
                    self._take(zip((walk.feeds[m].target for m in members), walked.rows, strict=True), first, sink)
                    self._notes.update(walked.notes)
                    for stage, seconds in walked.seconds.items():
                        clock.add(stage, seconds)
                    images += walked.images
                    self.cached += walked.cached
                if sink.error is not None:
                    return images
                self._watch()
                poll(images)
                if not finished:
                    time.sleep(POLL_SECONDS)
        finally:
            for future in under_way:
                future.cancel()
        return images

    def note(self, recipe: Recipe) -> str:
        """See `Compute`."""
        return self._notes.get(recipe, "")

    def forget(self) -> None:
        """See `Compute`."""
        self._group += 1

    def provenance(self, execution: Mapping[str, Any], split: Split, spec: BackboneSpec) -> dict[str, Any]:
        """See `Compute`."""
        index = next(i for i, known in enumerate(self._splits) if known is split)
        made: dict[str, Any] = self._result(self._submit(tell_provenance, index, execution, spec), spec.name)
        return made

    def _pieces(self, walk: Walk) -> Iterator[tuple[int, list[int], Piece]]:
        """Each piece with its first position and which feature sets it feeds."""
        size = max(feed.recipe.batch_size for feed in walk.feeds)
        row_bytes = sum(self._row_bytes[feed.recipe.spec] for feed in walk.feeds)
        left = sum(stop - start for start, stop in walk.ranges)
        for start, stop in walk.ranges:
            last = start
            while last < stop:
                step = rows_per_piece(size, row_bytes=row_bytes, images=left, workers=len(self._workers))
                first, last = last, min(last + step, stop)
                left -= last - first
                pending = [task_rows(feed.pending, first, last) for feed in walk.feeds]
                members = [member for member, rows in enumerate(pending) if rows]
                if not members:
                    continue
                rows, hashes = walk.part.take(first, last)
                feeds = [
                    (walk.feeds[member].recipe, tuple((a - first, b - first) for a, b in pending[member]))
                    for member in members
                ]
                yield first, members, Piece(split=walk.split, rows=rows, hashes=hashes, feeds=feeds)

    def _take(self, rows: Iterable[tuple[Target, Collected]], first: int, sink: Sink) -> None:
        for target, collected in rows:
            if collected.error is not None:
                target.error = collected.error
                continue
            for start, outputs, failed in collected.batches:
                reasons = {first + position: reason for position, reason in failed.items()}
                sink.put(target, first + start, lambda outputs=outputs: outputs, reasons)  # type: ignore[misc]

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(function, self._run, *arguments, pure=False)

    def _result(self, future: Any, what: str) -> Any:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            return future.result()
        except (KilledWorker, FutureCancelledError) as error:
            raise ClusterError(
                f"{what}: expected a worker that lives through it, found that several died or the cluster is gone; "
                f"what was committed is kept: look at the workers' output, then run again ({error})"
            ) from error

    def _watch(self) -> None:
        """Says which workers are gone; new ones count from here on."""
        now = time.monotonic()
        if now - self._watched < WATCH_SECONDS:
            return
        self._watched = now
        workers = set(self._client.nthreads())
        for address in sorted(self._workers - workers):
            log.warning("worker %s is gone; another one takes over its ranges", address)
        self._workers = workers


def rows_per_piece(batch_size: int, *, row_bytes: int, images: int, workers: int) -> int:
    """How many rows a worker is sent at once: a power of two of whole batches, at most a task of the plan.

    A part of the images that are left, so that the last pieces are small and all workers end together, and little
    enough that an answer stays within 32 MiB, or has four batches.

    >>> rows_per_piece(16, row_bytes=2560, images=100_000, workers=4)
    2048
    >>> rows_per_piece(16, row_bytes=200_000, images=100_000, workers=4)
    128
    >>> rows_per_piece(256, row_bytes=300_000, images=100_000, workers=4)
    1024
    """
    within = max(PIECE_BYTES // max(row_bytes, 1), PIECE_BATCHES * batch_size)
    most = min(within, images // (4 * max(workers, 1)), ROWS_PER_TASK)
    rows = 1 << (max(most, 1).bit_length() - 1)
    return min(max(rows, batch_size), ROWS_PER_TASK)
