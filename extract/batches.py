"""Batches on their way: which rows, their bytes, their pixels, and what went wrong with single images.

Shapes: B rows of a batch, H, W a backbone's input, C = 3 channels.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.extract.datasets.contract import DatasetSpec, Split
from featurebank.extract.decode import decode
from featurebank.extract.errors import DatasetError, ImageError
from featurebank.extract.plan import Rows, task_rows
from featurebank.extract.preprocessing import Decode, Preprocessing
from featurebank.extract.progress import Clock
from featurebank.extract.transform import Transform
from featurebank.store.fingerprint import content_hash

__all__ = ["Batch", "Part", "Preparer", "Reader", "batches", "pixels_key"]

Raw: TypeAlias = bytes | NDArray[np.uint8]


@dataclass
class Batch:
    """Positions [start, stop) of one part on their way to some backbones.

    Attributes:
        start: first row.
        stop: one past the last row.
        members: positions, in the pass, of the feature sets that need a row of it.
        raw: content per row once read, ``None`` where the image failed.
        pixels: (B, H, W, C) uint8 per distinct preprocessing geometry, once prepared.
        failed: position to reason.
        waiting: rows that are not prepared yet.
    """

    start: int
    stop: int
    members: tuple[int, ...]
    raw: list[Raw | None] = field(default_factory=list)
    pixels: dict[Hashable, torch.Tensor] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    waiting: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return self.stop - self.start


def batches(ranges: Sequence[tuple[int, int]], pending: Sequence[Rows], size: int) -> Iterator[Batch]:
    """The batches of a pass: cells of one absolute grid, so that a resumed run makes the same batches again.

    Args:
        ranges: the tasks' row ranges, ascending.
        pending: per feature set of the pass, the rows it still needs.
        size: rows a batch.

    >>> [(b.start, b.stop, b.members) for b in batches([(0, 8)], [((0, 2),), ((0, 8),)], 4)]
    [(0, 4, (0, 1)), (4, 8, (1,))]
    """
    for start, stop in ranges:
        for first in range(start, stop, size):
            last = min(first + size, stop)
            members = tuple(i for i, rows in enumerate(pending) if task_rows(rows, first, last))
            if members:
                yield Batch(first, last, members, waiting=last - first)


class Part:
    """Some records of a split, in an order, with the contents that the key was made from.

    Args:
        split: the records.
        rows: (n,) which of them; ``None`` for all.
        hashes: (n, 16) their content hashes, where they are known already.
    """

    def __init__(
        self, split: Split, rows: NDArray[np.int64] | None = None, hashes: NDArray[np.uint8] | None = None
    ) -> None:
        self._split = split
        self.rows = rows
        if hashes is None:
            hashes = split.content_hashes() if rows is None else split.content_hashes()[rows]
        self.hashes = hashes

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

    def id(self, position: int) -> str:
        """The id of one record."""
        return self._split.ids[self._row(position)]

    def _row(self, position: int) -> int:
        return position if self.rows is None else int(self.rows[position])


class Reader:
    """Reads a batch's contents and checks that they are what the key was made from."""

    def __init__(self, records: Split | Part, clock: Clock, *, strict: bool) -> None:
        self._part = records if isinstance(records, Part) else Part(records)
        self._clock = clock
        self._strict = strict

    def __call__(self, batch: Batch) -> None:
        """Fills ``batch.raw``.

        Raises:
            DatasetError: a record's content changed since the key was made.
            ImageError: a record cannot be read, in a strict run.
        """
        with self._clock.stage("read"):
            batch.raw = [self._read(batch, row) for row in range(batch.start, batch.stop)]

    def _read(self, batch: Batch, row: int) -> Raw | None:
        try:
            raw = self._part.read(row)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            if self._strict:
                raise ImageError(f"{self._part.id(row)}: {reason}") from error
            batch.failed[row] = reason
            return None
        expected = self._part.hashes[row].tobytes()
        if content_hash(raw) != expected:
            spec = self._part.spec
            raise DatasetError(
                f"{spec.name}/{spec.split}: the content of {self._part.id(row)!r} changed after the run began; "
                f"expected XXH3 {expected.hex()}, found {content_hash(raw).hex()}. Run again: "
                f"what is stored so far belongs to the old content and stays under its own key"
            )
        return raw


class Preparer:
    """Decodes each image once and makes the pixels of every geometry the batch needs."""

    def __init__(
        self,
        records: Split | Part,
        preprocessings: Sequence[Preprocessing],
        clock: Clock,
        *,
        strict: bool,
        pinned: bool,
    ) -> None:
        self._part = records if isinstance(records, Part) else Part(records)
        self._decode: Decode = preprocessings[0].decode
        self._keys = [pixels_key(p) for p in preprocessings]
        self._transforms = {key: Transform(p) for key, p in zip(self._keys, preprocessings, strict=True)}
        self._sizes = {key: (p.height, p.width) for key, p in zip(self._keys, preprocessings, strict=True)}
        self._clock = clock
        self._strict = strict
        self._pinned = pinned

    def allocate(self, batch: Batch) -> None:
        """Makes room for a batch's pixels: zeros where an image will have failed."""
        for key in {self._keys[member] for member in batch.members}:
            shape = (len(batch), *self._sizes[key], 3)
            batch.pixels[key] = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._pinned)

    def __call__(self, batch: Batch, first: int, last: int) -> bool:
        """Prepares rows [first, last) of the batch; true when that was the last part of it.

        Raises:
            ImageError: an image cannot be decoded, in a strict run.
        """
        arrays: Mapping[Hashable, NDArray[np.uint8]] = {key: t.numpy() for key, t in batch.pixels.items()}
        for row in range(first, last):
            offset = row - batch.start
            raw = batch.raw[offset]
            batch.raw[offset] = None
            if raw is None:
                continue
            try:
                with self._clock.stage("decode"):
                    image = decode(raw, self._decode)
                with self._clock.stage("transform"):
                    for key, pixels in arrays.items():
                        pixels[offset] = self._transforms[key](image)
            except ImageError as error:
                if self._strict:
                    raise ImageError(f"{self._part.id(row)}: {error}") from error
                with batch.lock:
                    batch.failed[row] = str(error)
        with batch.lock:
            batch.waiting -= last - first
            return batch.waiting == 0


def pixels_key(preprocessing: Preprocessing) -> Hashable:
    """Backbones with equal keys take the same 8-bit pixels; they may still differ in mean and std."""
    return (Transform(preprocessing).geometry, preprocessing.channels)
