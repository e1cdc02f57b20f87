"""A sealed file on a server: only the ranges that are asked for travel, and a range is never larger than 16 MiB."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checksum, damage
from featurebank.store._http import HttpFile, Piece
from featurebank.store._table import OutputEntry
from featurebank.store.addresses import Url, without_secrets
from featurebank.store.errors import CorruptError, InvalidInputError, NotFoundError, StorageError
from featurebank.store.requirements import advice

__all__ = ["RemoteFile", "RemoteValues"]

_LARGEST_RANGE = 16 << 20
_AT_ONCE = 64 << 20
_SAME = ("size", "ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "created")


class _Served(Protocol):
    size: int

    def fetch(self, pieces: Iterable[Piece]) -> None:
        """Fills the pieces."""


class RemoteFile:
    """One file behind a URL, with the reading half of `Disk`.

    Raises:
        NotFoundError: there is no such file.
        StorageError: the server cannot be reached, or does not serve ranges.
    """

    def __init__(self, path: Url) -> None:
        self.path: Any = path
        self._served: _Served = HttpFile(path) if path.url.startswith(("http://", "https://")) else _Elsewhere(path)
        self.size = self._served.size

    def close(self) -> None:
        """Nothing is held between reads."""

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """``nbytes`` fresh bytes from ``address`` on."""
        return self.read_ranges([(address, address + nbytes)])[0]

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """The bytes of several ranges, asked for at the same time.

        Raises:
            CorruptError: the server gives other bytes than the ranges, or the file ends before.
            StorageError: the server fails, or has another file there by now.
        """
        for first, last in ranges:
            if last > self.size:
                raise CorruptError(
                    f"{self.path}: expected {last - first} bytes at {first}; the file has {self.size}; "
                    f"it was truncated: restore it from a copy or extract it again"
                )
        found = [np.empty(last - first, np.uint8) for first, last in ranges]
        self._served.fetch(_pieces(ranges, found))
        return found


def _pieces(ranges: Sequence[tuple[int, int]], found: Sequence[NDArray[np.uint8]]) -> Iterator[Piece]:
    for (first, _), data in zip(ranges, found, strict=True):
        for start in range(0, len(data), _LARGEST_RANGE):
            yield Piece(first + start, data[start : start + _LARGEST_RANGE])


class _Elsewhere:
    """A file of any other file system that fsspec knows."""

    def __init__(self, path: Url) -> None:
        self._path = path
        try:
            import fsspec  # type: ignore[import-untyped]
        except ImportError as error:
            raise InvalidInputError(f"{path}: reading from a server {advice('fsspec')}") from error
        try:
            self._system, self._place = fsspec.url_to_fs(path.url)
            self._opened = self._state()
            self.size = int(self._opened["size"])
        except FileNotFoundError as error:
            raise NotFoundError(
                f"no feature set at {path}: the server has no such file, or does not answer; check the URL"
            ) from error
        except Exception as error:
            raise self._failed(error) from error

    def fetch(self, pieces: Iterable[Piece]) -> None:
        """Fills the pieces, a few at a time, and sees whether the file is still the same."""
        for some in _grouped(pieces):
            firsts = [piece.address for piece in some]
            lasts = [piece.address + len(piece.place) for piece in some]
            try:
                found = self._system.cat_ranges([self._place] * len(some), firsts, lasts, on_error="raise")
                now = self._state()
            except Exception as error:
                raise self._failed(error) from error
            if now != self._opened:
                raise StorageError(
                    errno.ESTALE,
                    f"{self._path} must be the file that was opened, {self._opened}; found {now}: it has changed; "
                    f"open it again",
                )
            for piece, data in zip(some, found, strict=True):
                if len(data) != len(piece.place):
                    raise CorruptError(
                        f"{self._path}: expected {len(piece.place)} bytes at {piece.address}; found {len(data)}; "
                        f"try again"
                    )
                piece.place[:] = np.frombuffer(data, np.uint8)

    def _state(self) -> dict[str, str]:
        info = self._system.info(self._place)
        return {name: str(info[name]) for name in _SAME if info.get(name) is not None}

    def _failed(self, error: Exception) -> StorageError:
        code = getattr(error, "errno", None) or errno.EIO
        said = without_secrets(f"{type(error).__name__}: {error!s:.400}")
        return StorageError(code, f"cannot read {self._path}: {said}; check the URL and server")


def _grouped(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    some: list[Piece] = []
    for piece in pieces:
        some.append(piece)
        if len(some) == 1024 or sum(len(one.place) for one in some) >= _AT_ONCE:
            yield some
            some = []
    if some:
        yield some


class RemoteValues:
    """The values of an output on a server.

    With ``checked`` whole chunks are fetched, and each is hashed before a row of it is handed out: each time, because
    what a server gives once says nothing of the next time.
    """

    def __init__(self, file: RemoteFile, entry: OutputEntry, *, checked: bool) -> None:
        self._file = file
        self._entry = entry
        checksums = entry.checksums
        # The file digest covers them, and the file is the one that was opened.
        self._expected = file.read(checksums.address, checksums.nbytes).view("<u8") if checked else None

    def view(self) -> NDArray[Any]:
        """All rows, fetched anew each time."""
        rows = self.fresh()
        rows.flags.writeable = False
        return rows

    def fresh(self) -> NDArray[Any]:
        """All rows."""
        return self.part(slice(None))

    def take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows; those that lie one after the other come in one range, or in whole chunks."""
        values = self._entry.values
        n_rows = values.shape[0]
        rows = np.asarray(rows)
        if rows.size and not -n_rows <= rows.min() <= rows.max() < n_rows:
            raise IndexError(f"rows must lie within {-n_rows} to {n_rows - 1}; found {rows.min()} to {rows.max()}")
        if not rows.size:
            return np.empty((*rows.shape, *values.shape[1:]), values.dtype)
        wanted, places = np.unique(rows.astype(np.intp) % n_rows, return_inverse=True)
        fetched = self._rows(wanted) if self._expected is None else self._checked_rows(wanted)
        return fetched.reshape(len(wanted), *values.shape[1:])[places.reshape(rows.shape)]

    def part(self, rows: slice) -> NDArray[Any]:
        """A slice of rows."""
        values = self._entry.values
        chosen = range(values.shape[0])[rows]
        if chosen.step != 1 or not chosen:
            return self.take(np.array(chosen, np.intp))
        if self._expected is not None:
            return self._checked_rows(np.array(chosen, np.intp)).reshape(len(chosen), *values.shape[1:])
        row_bytes = values.nbytes // values.shape[0]
        data = self._file.read(values.address + chosen.start * row_bytes, len(chosen) * row_bytes)
        return data.view(values.dtype).reshape(len(chosen), *values.shape[1:])

    def _rows(self, wanted: NDArray[np.intp]) -> NDArray[Any]:
        """Rows in ascending order, (n, values a row)."""
        values = self._entry.values
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) > 1)
        stops = np.r_[starts[1:], len(wanted)]
        row_bytes = values.nbytes // values.shape[0]
        ranges = [
            (values.address + int(wanted[start]) * row_bytes, values.address + (int(wanted[stop - 1]) + 1) * row_bytes)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        return np.concatenate(self._file.read_ranges(ranges)).view(values.dtype).reshape(len(wanted), -1)

    def _checked_rows(self, wanted: NDArray[np.intp]) -> NDArray[Any]:
        """The same out of whole chunks whose checksums are right."""
        entry, expected = self._entry, self._expected
        assert expected is not None  # noqa: S101 - for the type checker
        stride, row_bytes = entry.chunk_stride, entry.chunk_stride // entry.chunk_rows
        rows = np.empty((len(wanted), row_bytes), np.uint8)
        chunks, within = np.divmod(wanted, entry.chunk_rows)
        firsts = np.flatnonzero(np.diff(chunks, prepend=-1)).tolist()
        runs = list(itertools.pairwise([*firsts, len(wanted)]))
        damaged = []
        at_once = max(1, _AT_ONCE // stride)
        for some in (runs[start : start + at_once] for start in range(0, len(runs), at_once)):
            numbers = [int(chunks[first]) for first, _ in some]
            starts = [entry.values.address + number * stride for number in numbers]
            fetched = self._file.read_ranges([(start, start + stride) for start in starts])
            for (first, last), number, data in zip(some, numbers, fetched, strict=True):
                if checksum(data) != expected[number]:
                    damaged.append(number)
                rows[first:last] = data.reshape(entry.chunk_rows, row_bytes)[within[first:last]]
        if damaged:
            raise damage(self._file.path, entry, damaged)
        return rows.view(entry.values.dtype)
