"""Batches on their way: which rows, their bytes, their pixels, and what went wrong with single images.

Shapes: B rows of a batch, H, W a backbone's input, C = 3 channels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.extract import in_flight
from featurebank.extract.contents import REQUESTS, Part, Raw
from featurebank.extract.datasets.contract import Split
from featurebank.extract.decode import decoded
from featurebank.extract.errors import DatasetError, ImageError, fault
from featurebank.extract.gpu_jpeg import DeviceTransform, Jpeg, decode_jpegs, recognised
from featurebank.extract.pixel_cache import PixelCache
from featurebank.extract.plan import Rows, task_rows
from featurebank.extract.preprocessing import Decode, Preprocessing
from featurebank.extract.progress import Clock
from featurebank.extract.transform import Transform
from featurebank.store.fingerprint import content_hash

__all__ = ["Batch", "Part", "Preparer", "Reader", "Shelves", "batches", "pixels_key"]

Later: TypeAlias = Callable[[], Raw | None]

REQUEST: Final = "featurebank-request"
WAITED_SECONDS: Final = 0.002
REMEMBERED: Final = 16
"""Reads that the mean of how long they were waited for is of."""


@dataclass
class Batch:
    """Positions [start, stop) of one part on their way to some backbones.

    Attributes:
        start: first row.
        stop: one past the last row.
        members: positions, in the pass, of the feature sets that need a row of it.
        raw: content per row once read, or what reads it when it is needed; ``None`` where the image failed, is not
            needed or is done with.
        jpegs: row to an image that waits for the device to decode it.
        known: row to those of its pixels that are in a cache, (H, W, C) uint8, RGB.
        pixels: (B, H, W, C) uint8 per distinct preprocessing geometry, once prepared.
        failed: position to reason.
        waiting: rows that are not prepared yet.
    """

    start: int
    stop: int
    members: tuple[int, ...]
    raw: list[Raw | Later | None] = field(default_factory=list)
    known: dict[int, Mapping[Hashable, NDArray[np.uint8]]] = field(default_factory=dict)
    jpegs: dict[int, Jpeg] = field(default_factory=dict)
    pixels: dict[Hashable, torch.Tensor] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    waiting: int = 0
    ahead: in_flight.Ahead = field(default_factory=in_flight.Ahead)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return self.stop - self.start

    def content(self, offset: int) -> Raw | None:
        """One row's content, read now if reading ahead left it."""
        raw = self.raw[offset]
        if callable(raw):
            raw = self.raw[offset] = raw()
            if raw is not None:
                self.ahead.add(_nbytes(raw))
        return raw

    def drop(self, offset: int) -> None:
        """Lets go of one row's content."""
        raw, self.raw[offset] = self.raw[offset], None
        if raw is not None and not callable(raw):
            self.ahead.add(-_nbytes(raw))


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


class Shelves:
    """The part of a pixel cache that a walk uses.

    Args:
        cache: of the run.
        preprocessings: of the walk's feature sets, in order.
    """

    def __init__(self, cache: PixelCache, preprocessings: Sequence[Preprocessing]) -> None:
        self._cache = cache
        self._keys = [pixels_key(p) for p in preprocessings]
        self._shelves = {key: cache.shelf(p) for key, p in zip(self._keys, preprocessings, strict=True)}

    def find(self, batch: Batch, hashes: NDArray[np.uint8]) -> frozenset[int]:
        """Fills ``batch.known``; the answer is the rows of which nothing is left to be made."""
        keys = {self._keys[member] for member in batch.members}
        whole = []
        for row in range(batch.start, batch.stop):
            content = hashes[row].tobytes()
            found = {key: pixels for key in keys if (pixels := self._shelves[key].get(content)) is not None}
            if found:
                batch.known[row] = found
            if len(found) == len(keys):
                whole.append(row)
        self._cache.count(len(whole))
        return frozenset(whole)

    def put(self, key: Hashable, content: bytes, rgb: NDArray[np.uint8]) -> None:
        """Keeps pixels that were made, (H, W, 3) uint8, RGB."""
        self._shelves[key].put(content, rgb)


class Reader:
    """Reads a batch's contents; hashes them, or checks that they are what the key was made from.

    It reads ahead as many bytes as `in_flight.encoded` says, of all batches together; what does not fit is read when
    it is decoded. So nobody ever waits for room, and no order of batches can end in a lock. Where storage is waited
    for, the images of a batch are read at once. Close it at the end.

    Args:
        records: what is walked over.
        clock: takes the busy seconds.
        strict: whether a record that cannot be read is an error.
        shelves: what is known of the pixels already; records of which all are known are not read.
    """

    def __init__(self, records: Split | Part, clock: Clock, *, strict: bool, shelves: Shelves | None = None) -> None:
        self._part = records if isinstance(records, Part) else Part(records)
        self._clock = clock
        self._strict = strict
        self._shelves = shelves
        self._ahead = in_flight.Ahead(in_flight.encoded)
        self._waited = 0.0
        self._largest = 0
        self._pool = ThreadPoolExecutor(REQUESTS, REQUEST)

    def close(self) -> None:
        """Ends its threads; nothing is read any more."""
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, batch: Batch) -> None:
        """Fills ``batch.known`` and ``batch.raw``.

        Raises:
            DatasetError: a record's content changed since the key was made.
            ImageError: a record cannot be read, in a strict run.
        """
        batch.ahead = self._ahead
        whole: frozenset[int] = frozenset()
        if self._shelves is not None:
            with self._clock.stage("read"):
                whole = self._shelves.find(batch, self._part.hashes)
        rows = range(batch.start, batch.stop)
        batch.raw = [None if row in whole else partial(self._read, batch, row) for row in rows]
        read, offsets = partial(self._read_ahead, batch), range(len(batch))
        if not self._is_waiting:
            for offset in offsets:
                read(offset)
            return
        with self._clock.stage("read"):
            for _ in self._pool.map(read, offsets):
                pass

    @property
    def _is_waiting(self) -> bool:
        """Whether more requests at a time would help, and what they bring would not fill the room there is."""
        return self._waited > WAITED_SECONDS and 2 * REQUESTS * self._largest < in_flight.encoded

    def _read_ahead(self, batch: Batch, offset: int) -> None:
        if not self._ahead.full:
            batch.content(offset)

    def _timed(self, row: int) -> Raw:
        """One record's content; how long its bytes were waited for goes into a running mean."""
        busy, start = time.thread_time(), time.perf_counter()
        # What a batch's requests take together, the thread that waits for them counts.
        is_request = threading.current_thread().name.startswith(REQUEST)
        with nullcontext() if is_request else self._clock.stage("read"):
            raw = self._part.read(row)
        waited = time.perf_counter() - start - (time.thread_time() - busy)
        # Without a lock: what two threads do at once may be lost.
        self._waited += (waited - self._waited) / REMEMBERED
        self._largest = max(self._largest, _nbytes(raw))
        return raw

    def _read(self, batch: Batch, row: int) -> Raw | None:
        known, expected = bool(self._part.known[row]), self._part.hashes[row].tobytes()
        try:
            raw = self._timed(row)
            if known and not any(expected):
                raise ImageError("it could not be when the run began, now it can; run again")
        except Exception as error:
            reason = f"cannot be read: {getattr(error, 'strerror', None) or fault(error)}"
            if self._strict:
                raise ImageError(f"{self._part.id(row)}: {reason}") from error
            with batch.lock:
                batch.failed[row] = reason
            if not known:
                self._part.learn(row, bytes(16))
            return None
        digest = content_hash(raw)
        if not known:
            self._part.learn(row, digest)
        elif digest != expected:
            spec = self._part.spec
            raise DatasetError(
                f"{spec.name}/{spec.split}: the content of {self._part.id(row)!r} changed after the run began; "
                f"expected XXH3 {expected.hex()}, found {digest.hex()}. Run again: "
                f"what is stored so far belongs to the old content and stays under its own key"
            )
        return raw


class Preparer:
    """Decodes each image once and makes the pixels of every geometry the batch needs.

    Args:
        records: what is walked over.
        preprocessings: of the walk's feature sets, in order; all share a decode.
        clock: takes the busy seconds.
        strict: whether an image that cannot be decoded is an error.
        pinned: whether the pixels lie in memory that a GPU can fetch by itself.
        shelves: takes the pixels that are made.
        device: where JPEGs are decoded, if the record says that Pillow does not.
    """

    def __init__(
        self,
        records: Split | Part,
        preprocessings: Sequence[Preprocessing],
        clock: Clock,
        *,
        strict: bool,
        pinned: bool,
        shelves: Shelves | None = None,
        device: str = "cpu",
    ) -> None:
        self._part = records if isinstance(records, Part) else Part(records)
        self._decode: Decode = preprocessings[0].decode
        self._keys = [pixels_key(p) for p in preprocessings]
        self._transforms = {key: Transform(p) for key, p in zip(self._keys, preprocessings, strict=True)}
        self._sizes = {key: (p.height, p.width) for key, p in zip(self._keys, preprocessings, strict=True)}
        self._clock = clock
        self._strict = strict
        self._pinned = pinned
        self._shelves = shelves
        self._device = torch.device(device)
        self._on_device = {key: DeviceTransform(made, self._device) for key, made in self._transforms.items()}

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
        for row in range(first, last):
            offset = row - batch.start
            raw = batch.content(offset)
            if raw is not None and not self._leave(batch, row, raw):
                self._prepare(batch, row, raw, batch.pixels)
            for key, rgb in batch.known.pop(row, {}).items():
                batch.pixels[key].numpy()[offset] = self._transforms[key].ordered(rgb)
            if row not in batch.jpegs:
                batch.drop(offset)
        with batch.lock:
            batch.waiting -= last - first
            complete = batch.waiting == 0
        if complete and batch.jpegs:
            self._decode_on_device(batch)
        return complete

    def _prepare(self, batch: Batch, row: int, raw: Raw, into: Mapping[Hashable, torch.Tensor]) -> None:
        """Those pixels of one image that are not known yet, by Pillow, and a copy for the cache."""
        known = batch.known.get(row, {})
        made: dict[Hashable, NDArray[np.uint8]] = {}
        shared: dict[Hashable, NDArray[np.uint8]] = {}
        with self._noting(batch, row), ExitStack() as held:
            with self._clock.stage("decode"):
                image = held.enter_context(decoded(raw, self._decode))
            for key in into.keys() - known.keys():
                transform = self._transforms[key]
                with self._clock.stage("transform"):
                    if transform.geometry not in shared:
                        shared[transform.geometry] = transform.pixels(image)
                made[key] = shared[transform.geometry]
        for key, rgb in made.items():
            into[key].numpy()[row - batch.start] = self._transforms[key].ordered(rgb)
            if self._shelves is not None:
                with self._clock.stage("write"):
                    self._shelves.put(key, self._part.hashes[row].tobytes(), rgb)

    def _leave(self, batch: Batch, row: int, raw: Raw) -> bool:
        """Whether the image is left to the device."""
        if self._decode.library == "pillow":
            return False
        with self._clock.stage("decode"):
            jpeg = recognised(raw, self._decode)
        if jpeg is not None:
            batch.jpegs[row] = jpeg
        return jpeg is not None

    def _decode_on_device(self, batch: Batch) -> None:
        """The images that were left, all together; then all pixels of the batch are on the device."""
        host = batch.pixels
        batch.pixels = {key: pixels.to(self._device, non_blocking=True) for key, pixels in host.items()}
        rows = sorted(batch.jpegs)
        images = decode_jpegs([batch.jpegs[row] for row in rows], self._device)
        for row in rows:
            offset = row - batch.start
            with self._clock.stage("decode"):
                image = next(images)
            raw = batch.content(offset)
            batch.drop(offset)
            if image is None:
                assert raw is not None  # noqa: S101 - kept for this
                self._prepare(batch, row, raw, host)
                for key, pixels in batch.pixels.items():
                    pixels[offset] = host[key][offset]
                continue
            # That the device is full says nothing of an image.
            with self._noting(batch, row, but=torch.OutOfMemoryError), self._clock.stage("transform"):
                for key, pixels in batch.pixels.items():
                    pixels[offset] = self._on_device[key](image)
        batch.jpegs.clear()

    @contextmanager
    def _noting(self, batch: Batch, row: int, *, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Marks the row as failed where its image is; some errors are not the image's."""
        try:
            yield
        except but:
            raise
        except Exception as error:
            if self._strict:
                raise ImageError(f"{self._part.id(row)}: {fault(error)}") from error
            with batch.lock:
                batch.failed[row] = fault(error)


def pixels_key(preprocessing: Preprocessing) -> Hashable:
    """Backbones with equal keys take the same 8-bit pixels; they may still differ in mean and std."""
    return (Transform(preprocessing).geometry, preprocessing.channels, preprocessing.flip)


def _nbytes(raw: Raw) -> int:
    return len(raw) if isinstance(raw, bytes) else raw.nbytes
