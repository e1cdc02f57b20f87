"""Prepared pixels kept between runs: a repeated run over a slow disk reads no original and decodes nothing.

A folder holds one shelf per decoder and geometry. A shelf is a few pairs of files, one pair per process that ever wrote
at the same time, and every record of a shelf has the same size:

- ``NAME.pixels``: record ``i`` begins at ``i`` times the record's size: a 16-byte checksum, then (H, W, 3) uint8, RGB.
- ``NAME.index``: 16 bytes a record: the content hash of the image it was made from; all zero where there is none.

A record is written before its line of the index, and its checksum covers the shelf, the content hash and the pixels. So
whatever a killed process, a full disk or a failing one leaves behind is either not found or noticed, and made again.
The folder may be deleted at any time.

Shapes: H, W the preprocessing's height and width, C = 3 channels.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL
import PIL.features
import xxhash
from numpy.typing import NDArray

from featurebank.extract.decode import VERSION
from featurebank.extract.preprocessing import Preprocessing
from featurebank.extract.transform import Transform
from featurebank.store.fingerprint import canonical_json, fingerprint, record

__all__ = ["PixelCache", "Shelf", "expected_bytes"]

log = logging.getLogger("featurebank")

HASH = 16
CHECKSUM = 16
NOTHING = bytes(HASH)
ROWS = 1 << 40
"""A place is a file's number times this plus the record's."""
ABSENT = -1
FOLD_FROM = 4096
MEASURE_EVERY = 256
"""Records this process adds before it measures the folder again, to which other processes add too."""

_Sorted: TypeAlias = tuple[NDArray[np.bytes_], NDArray[np.int64]]
_EMPTY: _Sorted = (np.empty(0, f"S{HASH}"), np.empty(0, np.int64))
"""Content hashes, ascending, and their places."""


class PixelCache:
    """Prepared pixels by content, shared by backbones, datasets, runs and processes; safe for several threads.

    It never changes a number: what cannot be read, or does not fit its checksum, is made from the original again. What
    cannot be written is said once, and the run goes on without adding to it. As an image that is found is not read, a
    file that changes between the hashing that precedes a run and the run itself goes unnoticed here.

    Args:
        folder: made where it does not exist.
        limit_bytes: nothing is added beyond this size of the whole folder; several processes together may overstep it
            by 256 records each.

    Attributes:
        images: images whose original was not needed.
    """

    def __init__(self, folder: Path, *, limit_bytes: int | None = None) -> None:
        self.images = 0
        self._folder = folder
        self._filling = _Filling(folder, limit_bytes)
        self._lock = threading.Lock()
        self._shelves: dict[str, Shelf] = {}

    def shelf(self, preprocessing: Preprocessing) -> Shelf:
        """Where the pixels of a preprocessing lie; preprocessings that differ in normalisation alone share it."""
        name = _shelf_name(preprocessing)
        with self._lock:
            if name not in self._shelves:
                self._shelves[name] = Shelf(self._folder / name, preprocessing, self._filling)
            return self._shelves[name]

    def count(self, images: int) -> None:
        """Adds to ``images``."""
        with self._lock:
            self.images += images


class _Filling:
    """Whether anything is added to a cache: until it is full, or something fails."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._on = True
        self._size = 0
        self._unmeasured = MEASURE_EVERY

    def takes(self, nbytes: int) -> bool:
        """Whether a record of so many bytes may be added, which is counted as done."""
        with self._lock:
            if not self._on or self._limit is None:
                return self._on
            if self._unmeasured >= MEASURE_EVERY:
                self._unmeasured = 0
                self._size = sum(file.stat().st_size for file in self._folder.glob("*/*.pixels"))
            self._unmeasured += 1
            self._size += nbytes
            if self._size > self._limit:
                self._on = False
                log.info("pixel cache %s: full at its limit of %.4g GB", self._folder, self._limit / 1e9)
            return self._on

    def stop(self, error: OSError) -> None:
        """Nothing is added any more; said once."""
        with self._lock:
            told, self._on = not self._on, False
        if not told:
            log.warning("pixel cache %s: %s; the run goes on without adding to it", self._folder, error)


class Shelf:
    """The pixels of one decoder and geometry, by the content hash of the image; made by `PixelCache.shelf`."""

    def __init__(self, folder: Path, preprocessing: Preprocessing, filling: _Filling) -> None:
        self._folder = folder
        self._filling = filling
        self._about = canonical_json(_identity(preprocessing))
        self._shape = (preprocessing.height, preprocessing.width, 3)
        self._record = CHECKSUM + preprocessing.height * preprocessing.width * 3
        self._lock = threading.Lock()
        self._files: list[_File] = []
        self._writer: _Writer | None = None
        self._added: dict[bytes, int] = {}
        self._sorted = _EMPTY
        found = [self._open(path) for path in sorted(folder.glob("*.index"))]
        if found:
            self._fold(np.concatenate([contents for contents, _ in found]), np.concatenate([at for _, at in found]))

    def get(self, content: bytes) -> NDArray[np.uint8] | None:
        """(H, W, 3) uint8, RGB, of the image with a content hash, or ``None`` where there are none."""
        place = self._place(content)
        if place == ABSENT:
            return None
        number, row = divmod(place, ROWS)
        data = np.empty(self._record, np.uint8)
        try:
            whole = os.preadv(self._files[number].fd, [data.data], row * self._record) == self._record
        except OSError as error:
            self._filling.stop(error)
            return None
        pixels = data[CHECKSUM:]
        if not whole or data[:CHECKSUM].tobytes() != self._checksum(content, pixels):
            self._drop(content, number, row)
            return None
        return pixels.reshape(self._shape)

    def put(self, content: bytes, pixels: NDArray[np.uint8]) -> None:
        """Keeps (H, W, 3) uint8, RGB, unless it is there already or the cache takes no more.

        Args:
            content: hash of the original; all zero, of a record that has none, is passed over.
            pixels: what the record's transform gives.
        """
        if content == NOTHING or self._place(content) != ABSENT:
            return
        try:
            if not self._filling.takes(self._record):
                return
            with self._lock:
                writer = self._writer = self._writer or self._claim()
                row, writer.next = writer.next, writer.next + 1
            data = np.empty(self._record, np.uint8)
            data[CHECKSUM:] = pixels.reshape(-1)
            data[:CHECKSUM] = np.frombuffer(self._checksum(content, data[CHECKSUM:]), np.uint8)
            _write(writer.pixels.fd, data.data, row * self._record)
            _write(writer.index.fd, memoryview(content), row * HASH)
        except OSError as error:
            self._filling.stop(error)
            return
        with self._lock:
            self._added[content] = writer.number * ROWS + row
            if len(self._added) >= FOLD_FROM + len(self._sorted[0]):
                places = np.fromiter(self._added.values(), np.int64)
                self._fold(np.frombuffer(b"".join(self._added), f"S{HASH}"), places)
                self._added = {}

    def _place(self, content: bytes) -> int:
        place = self._added.get(content)
        if place is not None:
            return place
        # What is folded leaves the dictionary afterwards, so that a thread without the lock finds it here or there.
        contents, places = self._sorted
        key = np.frombuffer(content, contents.dtype)
        at = int(np.searchsorted(contents, key, side="right")[0]) - 1
        return int(places[at]) if at >= 0 and contents[at] == key[0] else ABSENT

    def _fold(self, contents: NDArray[np.bytes_], places: NDArray[np.int64]) -> None:
        """Merges places into the sorted ones; of equal contents the last one counts."""
        contents = np.concatenate([self._sorted[0], contents])
        places = np.concatenate([self._sorted[1], places])
        order = np.argsort(contents, kind="stable")
        contents, places = contents[order], places[order]
        last = np.ones(len(contents), np.bool_)
        last[:-1] = contents[1:] != contents[:-1]
        self._sorted = contents[last], places[last]

    def _open(self, path: Path) -> _Sorted:
        """What an index lists, and where that lies; nothing where it cannot be read."""
        try:
            file = _File(path.with_suffix(".pixels"), os.O_RDONLY)
            contents: NDArray[np.bytes_] = np.fromfile(path, f"S{HASH}")
        except OSError as error:
            self._filling.stop(error)
            return _EMPTY
        self._files.append(file)
        rows = np.flatnonzero(contents != b"")
        return contents[rows], (len(self._files) - 1) * ROWS + rows

    def _claim(self) -> _Writer:
        """A pair of files that no other process writes, new only where all are being written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "about.json").write_bytes(self._about)
        for number, file in enumerate(self._files):
            with contextlib.suppress(OSError):
                writer = _Writer(file.path, number)
                fcntl.flock(writer.index.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                writer.next = os.fstat(writer.index.fd).st_size // HASH
                return writer
        path = self._folder / f"{secrets.token_hex(8)}.pixels"
        writer = _Writer(path, len(self._files))
        with contextlib.suppress(OSError):  # Where there are no locks, every process has files of its own.
            fcntl.flock(writer.index.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._files.append(_File(path, os.O_RDONLY))
        return writer

    def _drop(self, content: bytes, number: int, row: int) -> None:
        """A damaged record: not found any more, here and by later runs."""
        with self._lock:
            self._added[content] = ABSENT
        with contextlib.suppress(OSError):
            index = _File(self._files[number].path.with_suffix(".index"), os.O_WRONLY)
            _write(index.fd, memoryview(NOTHING), row * HASH)

    def _checksum(self, content: bytes, pixels: NDArray[np.uint8]) -> bytes:
        state = xxhash.xxh3_128(self._about + content)
        state.update(pixels.data)
        return state.digest()


class _File:
    """A file, open until the object goes."""

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        weakref.finalize(self, os.close, self.fd)


class _Writer:
    """A pair of files to write to, and the next record."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.pixels = _File(path, os.O_RDWR | os.O_CREAT)
        self.index = _File(path.with_suffix(".index"), os.O_RDWR | os.O_CREAT)
        self.next = 0


def expected_bytes(wanted: Iterable[tuple[Preprocessing, int, int]]) -> int:
    """What the cache holds once all images of some splits are in it, counting no image of a split twice.

    Args:
        wanted: preprocessing, the split's index in the run, and its number of records.

    >>> record = Preprocessing(height=224, width=224, resize_height=256, resize_width=256, interpolation="bicubic",
    ...                        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> f"{expected_bytes([(record, 0, 1_281_167)]) / 1e9:.0f} GB"
    '193 GB'
    """
    rows = {(_shelf_name(p), split): n * (HASH + CHECKSUM + p.height * p.width * 3) for p, split, n in wanted}
    return sum(rows.values())


def _identity(preprocessing: Preprocessing) -> dict[str, object]:
    """What the pixels depend on besides the image; another version of the decoder may give others."""
    return {
        "decode": record(preprocessing.decode),
        "geometry": Transform(preprocessing).geometry,
        "decoding": VERSION,
        "pillow": PIL.__version__,
        "libjpeg": PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg") or "",
    }


def _shelf_name(preprocessing: Preprocessing) -> str:
    return fingerprint(_identity(preprocessing))[:16]


def _write(fd: int, data: memoryview, address: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], address + done)
