"""What runs in a worker: it keeps a run's splits and the networks it has built, and walks the pieces it is given."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker
from numpy.typing import NDArray

from featurebank.extract.batches import Part
from featurebank.extract.compute import Facts, Feed, Local, Recipe, Walk, numerics
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.errors import ExtractError, fault
from featurebank.extract.plan import Rows
from featurebank.extract.progress import Clock
from featurebank.extract.sink import Sink

__all__ = ["Collected", "Extraction", "Piece", "Walked", "describe", "tell_provenance", "walk_piece"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A range of a walk, as it is sent to a worker.

    Attributes:
        split: its index in the run.
        rows: (n,) rows of the split.
        hashes: (n, 16) their content hashes.
        feeds: per feature set, its network and the positions it needs, counted from the piece's first.
    """

    split: int
    rows: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    feeds: Sequence[tuple[Recipe, Rows]]


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What became of a piece.

    Attributes:
        images: how many went through.
        cached: how many of them had their pixels in the worker's pixel cache.
        rows: per feature set, (first position, outputs, position to the reason why it failed) of each batch.
        seconds: busy seconds per stage.
        notes: what to know of how the networks run.
    """

    images: int
    cached: int
    rows: Sequence[Collected]
    seconds: Mapping[str, float]
    notes: Mapping[Recipe, str]


@dataclass(eq=False)
class Collected:
    """The rows of one feature set, to be sent back."""

    batches: list[tuple[int, Mapping[str, NDArray[np.generic]], Mapping[int, str]]] = field(default_factory=list)
    error: Exception | None = None

    def add(self, start: int, outputs: Mapping[str, NDArray[np.generic]], failed: Mapping[int, str]) -> None:
        """Keeps them."""
        self.batches.append((start, outputs, dict(failed)))

    def commit(self) -> None:
        """Nothing here lasts longer than the answer."""


class WorkerError(ExtractError, RuntimeError):
    """What a network raised in a worker, by its text."""


class Extraction(WorkerPlugin):
    """Comes to every worker of a cluster, also to those that join later; its networks go when it goes.

    One piece at a time: its lanes are as many as the worker shall use.
    """

    def __init__(self, splits: Sequence[Split], device: str, execution: Execution) -> None:
        self.splits = splits
        self._device = device
        self._execution = execution

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - the signature of Dask
        """Called in the worker."""
        self.lock = threading.Lock()
        self.local = Local(self._device, self._execution)
        self._group = -1

    def of_group(self, group: int) -> Local:
        """Networks of an earlier group of backbones are let go."""
        if group != self._group:
            self.local.forget()
            self._group = group
        return self.local


def describe(run: str, group: int, recipe: Recipe, images: NDArray[np.uint8] | None) -> Facts:
    """Builds a network, tries its precision on some images, and says what must be known of it."""
    extraction = _extraction(run)
    with extraction.lock, numerics():
        return extraction.of_group(group).facts(recipe, images)


def tell_provenance(run: str, split: int, execution: Mapping[str, Any], recipe_spec: Any) -> dict[str, Any]:
    """Versions and device, as the worker sees them."""
    extraction = _extraction(run)
    return extraction.local.provenance(execution, extraction.splits[split], recipe_spec)


def walk_piece(run: str, group: int, piece: Piece) -> Walked:
    """Sends the images of a piece through its networks, as a run in one process does."""
    extraction = _extraction(run)
    clock = Clock()
    collected = [Collected() for _ in piece.feeds]
    feeds = [
        Feed(recipe=recipe, pending=pending, target=target)
        for (recipe, pending), target in zip(piece.feeds, collected, strict=True)
    ]
    part = Part(extraction.splits[piece.split], piece.rows, piece.hashes)
    with extraction.lock, numerics():
        local = extraction.of_group(group)
        before = local.cached
        sink = Sink(clock, capacity=2 * local.lanes + 4)
        walk = Walk(split=piece.split, part=part, ranges=[(0, len(part))], feeds=feeds)
        with sink:
            images = local.run(walk, sink, clock, lambda _: None)
        if sink.error is not None:
            raise sink.error
        for target in collected:
            if target.error is not None:
                # Not every error can be sent to another process.
                target.error = WorkerError(fault(target.error))
        notes = {recipe: local.note(recipe) for recipe, _ in piece.feeds}
        cached = local.cached - before
    return Walked(images=images, cached=cached, rows=collected, seconds=clock.seconds(), notes=notes)


def _extraction(run: str) -> Extraction:
    extraction = get_worker().plugins[run]
    assert isinstance(extraction, Extraction)  # noqa: S101 - narrows the type, the name is the run's own
    return extraction
