"""A sealed file on a server: only the ranges that are asked for travel, and a range is never larger than 16 MiB."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurebank.store._chunks import checksum, damage
from featurebank.store._http import HttpFile, Piece, no_answer
from featurebank.store._table import OutputEntry
from featurebank.store._values import ChunkedValues, Values
from featurebank.store.addresses import Url, without_secrets
from featurebank.store.errors import CorruptError, InvalidInputError, StorageError
from featurebank.store.requirements import advice

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
                    f"{self.path} must have {last - first} bytes at {first}; found {self.size} in all; "
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
            raise no_answer(path) from error
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
                        f"{self._path} must have {len(piece.place)} bytes at {piece.address}; found {len(data)}; "
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


class RemoteValues(Values):
    """The values of an output on a server: rows that lie one after the other come in one range."""

    def __init__(self, file: RemoteFile, entry: OutputEntry) -> None:
        super().__init__(file.path, entry)
        self._file = file

    def _gathered(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        if not rows.size:
            return np.empty(0, self.entry.values.dtype)
        wanted, places = np.unique(rows, return_inverse=True)
        firsts = np.flatnonzero(np.diff(wanted, prepend=-2) > 1)
        lasts = np.r_[firsts[1:], len(wanted)] - 1
        ranges = np.column_stack([wanted[firsts], wanted[lasts] + 1]) * self.row_bytes + self.entry.values.address
        data = np.concatenate(self._file.read_ranges(list(map(tuple, ranges.tolist()))))
        return data.view(self.entry.values.dtype).reshape(len(wanted), -1)[places]

    def _stretch(self, start: int, stop: int) -> NDArray[Any]:
        address = self.entry.values.address + start * self.row_bytes
        return self._file.read(address, (stop - start) * self.row_bytes).view(self.entry.values.dtype)


class CheckedRemoteValues(ChunkedValues):
    """The values of an output on a server in whole chunks, each hashed before a row of it is handed out.

    Each time: what a server gives once says nothing of the next time.
    """

    def __init__(self, file: RemoteFile, entry: OutputEntry) -> None:
        super().__init__(file.path, entry, entry.chunk_rows)
        self._file = file
        # The file digest covers them, and the file is the one that was opened.
        self._expected = file.read(entry.checksums.address, entry.checksums.nbytes).view("<u8")

    def _chunks(self, numbers: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        stride, damaged = self.entry.chunk_stride, []
        at_once = max(1, _AT_ONCE // stride)
        for some in (numbers[start : start + at_once] for start in range(0, len(numbers), at_once)):
            # Chunks that lie one after the other come as one range: a server is asked a few times, for much.
            runs = np.split(np.asarray(some), np.flatnonzero(np.diff(some) != 1) + 1)
            bounds = [(int(run[0]) * stride, (int(run[-1]) + 1) * stride) for run in runs]
            begin = self.entry.values.address
            fetched = self._file.read_ranges([(begin + first, begin + last) for first, last in bounds])
            chunks = (run[at : at + stride] for run in fetched for at in range(0, len(run), stride))
            for number, data in zip(some, chunks, strict=True):
                if checksum(data) != self._expected[number]:
                    damaged.append(number)
                yield data.reshape(self.chunk_rows, -1, self.dtype.itemsize)
        if damaged:
            raise damage(self.path, self.entry, damaged)
