"""A sealed file on a server, read through fsspec: only the ranges that are asked for travel."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store._table import OutputEntry
from featurebank.store.errors import CorruptError, InvalidInputError, NotFoundError, StorageError

__all__ = ["RemoteFile", "RemoteValues", "Url", "location"]

_AT_ONCE = 32
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")


class Url(PurePosixPath):
    """A URL where a path is expected: ``name`` is its last part, and it is shown as it was given."""

    def __new__(cls, url: str) -> Url:
        """Keeps what a path would normalise."""
        made = super().__new__(cls, url)
        made.url = url
        return made

    url: str
    __slots__ = ("url",)

    def __str__(self) -> str:
        return self.url


class RemoteFile:
    """One file behind a URL, with the reading half of `Disk`.

    Raises:
        NotFoundError: there is no such file.
        StorageError: the server cannot be reached, or does not serve ranges.
    """

    def __init__(self, path: Any) -> None:
        self.path = path
        try:
            import fsspec  # type: ignore[import-untyped]
        except ImportError as error:
            raise InvalidInputError(f"{path}: reading from a server needs the package fsspec; install it") from error
        try:
            self._system, self._place = fsspec.url_to_fs(str(path))
            self.size = int(self._system.size(self._place))
        except FileNotFoundError as error:
            raise NotFoundError(
                f"no feature set at {path}: the server has no such file, or does not answer; check the URL"
            ) from error
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Nothing is held between reads."""

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """``nbytes`` fresh bytes from ``address`` on."""
        return self.read_ranges([(address, address + nbytes)])[0]

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """The bytes of several ranges, asked for at the same time.

        Raises:
            CorruptError: the server gives fewer or more bytes than a range has.
            StorageError: the server fails.
        """
        firsts, lasts = [first for first, _ in ranges], [last for _, last in ranges]
        try:
            # Few at a time: a server that is asked for a thousand ranges at once makes most of them wait.
            few = {"batch_size": _AT_ONCE} if self._system.async_impl else {}
            found = self._system.cat_ranges([self._place] * len(ranges), firsts, lasts, on_error="raise", **few)
        except Exception as error:
            raise self._failed(error) from error
        for data, (first, last) in zip(found, ranges, strict=True):
            if len(data) != last - first:
                raise CorruptError(
                    f"{self.path}: expected {last - first} bytes at {first}; the server gave {len(data)}; "
                    f"it must serve ranges of the file as it is, without compressing it"
                )
        return [np.frombuffer(bytearray(data), np.uint8) for data in found]

    def _failed(self, error: Exception) -> StorageError:
        code = getattr(error, "errno", None) or 5
        return StorageError(code, f"cannot read {self.path}: {type(error).__name__}: {error}; check the URL and server")


class RemoteValues:
    """The values of an output on a server."""

    def __init__(self, file: RemoteFile, entry: OutputEntry) -> None:
        self._file = file
        self._entry = entry

    def view(self) -> NDArray[Any]:
        """All rows, fetched anew each time."""
        rows = self.fresh()
        rows.flags.writeable = False
        return rows

    def fresh(self) -> NDArray[Any]:
        """All rows."""
        return self.part(slice(None))

    def take(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Some rows; those that lie one after the other come in one range."""
        values = self._entry.values
        n_rows = values.shape[0]
        rows = np.asarray(rows)
        if rows.size and not -n_rows <= rows.min() <= rows.max() < n_rows:
            raise IndexError(f"rows must lie within {-n_rows} to {n_rows - 1}; found {rows.min()} to {rows.max()}")
        if not rows.size:
            return np.empty((*rows.shape, *values.shape[1:]), values.dtype)
        wanted, places = np.unique(rows.astype(np.intp) % n_rows, return_inverse=True)
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) > 1)
        stops = np.r_[starts[1:], len(wanted)]
        row_bytes = values.nbytes // n_rows
        ranges = [
            (values.address + int(wanted[start]) * row_bytes, values.address + (int(wanted[stop - 1]) + 1) * row_bytes)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        fetched = np.concatenate(self._file.read_ranges(ranges)).view(values.dtype)
        return fetched.reshape(len(wanted), *values.shape[1:])[places.reshape(rows.shape)]

    def part(self, rows: slice) -> NDArray[Any]:
        """A slice of rows."""
        values = self._entry.values
        chosen = range(values.shape[0])[rows]
        if chosen.step != 1 or not chosen:
            return self.take(np.array(chosen, np.intp))
        row_bytes = values.nbytes // values.shape[0]
        data = self._file.read(values.address + chosen.start * row_bytes, len(chosen) * row_bytes)
        return data.view(values.dtype).reshape(len(chosen), *values.shape[1:])


def location(path: str | os.PathLike[str]) -> Any:
    """A path, or the URL of a file on a server, such as ``https://…`` or ``s3://…``."""
    if isinstance(path, Url):
        return path
    return Url(path) if isinstance(path, str) and _URL.match(path) else Path(path)
