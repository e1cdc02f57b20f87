"""What runs in a worker: it keeps a run's splits and the networks it has built, and walks the pieces it is given."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from distributed import Worker, WorkerPlugin, get_worker
from numpy.typing import NDArray

from featurebank.extract.batches import Part
from featurebank.extract.compute import Facts, Feed, Local, Recipe, Walk, numerics
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution, cpu_cores
from featurebank.extract.errors import ExtractError, fault
from featurebank.extract.plan import Rows
from featurebank.extract.progress import Clock
from featurebank.extract.sink import Sink

__all__ = [
    "Collected", "Extraction", "Piece", "Walked",
    "describe", "own_cores", "shared_lanes", "tell_provenance", "walk_piece",
]  # fmt: skip


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

    Args:
        splits: of the run.
        device: a resolved one.
        execution: how to run; where it has no number of lanes, these are the worker's part of its cores.
    """

    def __init__(self, splits: Sequence[Split], device: str, execution: Execution) -> None:
        self.splits = splits
        self.lanes: Mapping[str, int] = {}
        self._device = device
        self._execution = execution

    def setup(self, worker: Worker) -> None:
        """Called in the worker."""
        self.lock = threading.Lock()
        lanes = self._execution.workers or self._lanes_of(worker.address)
        self.local = Local(self._device, replace(self._execution, workers=lanes))
        self._group = -1

    def _lanes_of(self, address: str) -> int:
        """One that has joined since lanes were counted takes as many as the others of its machine."""
        beside = [lanes for other, lanes in self.lanes.items() if _host(other) == _host(address)]
        return self.lanes.get(address) or min([cpu_cores(), *beside])

    def of_group(self, group: int) -> Local:
        """Networks of an earlier group of backbones are let go."""
        if group != self._group:
            self.local.forget()
            self._group = group
        return self.local


def own_cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def shared_lanes(cores: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """How many lanes each worker has, at least one: a core that several of a machine may use is shared out.

    Args:
        cores: the address of a worker to the cores that it may use.

    >>> shared_lanes({"tcp://a:1": [0, 1, 2, 3], "tcp://a:2": [0, 1, 2, 3], "tcp://b:1": [0, 1, 2, 3]})
    {'tcp://a:1': 2, 'tcp://a:2': 2, 'tcp://b:1': 4}
    """
    users = Counter((_host(address), core) for address, some in cores.items() for core in some)
    return {
        address: max(1, int(sum(Fraction(1, users[_host(address), core]) for core in some)))
        for address, some in cores.items()
    }


def _host(address: str) -> str:
    return address.rsplit(":", 1)[0]


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
