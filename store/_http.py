"""Ranges of a file over HTTP: the server decides neither how many bytes are read nor of which file they are.

fsspec's own client reads whatever body comes; here a range is 206 with the range that was asked for, as it is, and
reading stops at its end. Its loop and its thread are used, so that connections stay open between reads.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.store.addresses import Url
from featurebank.store.errors import CorruptError, InvalidInputError, NotFoundError, StorageError
from featurebank.store.requirements import advice

_AT_ONCE = 32
_CONNECT_SECONDS, _SILENT_SECONDS = 30, 60
_FIRST = 128
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_NOT_FOUND, _PARTIAL = (404, 410), 206
_VALIDATORS = ("ETag", "Last-Modified")


@dataclass(frozen=True)
class Piece:
    """A range that is asked for at once: where it begins in the file, and where its bytes go."""

    address: int
    place: NDArray[np.uint8]


class HttpFile:
    """One file behind an HTTP address, as it was when it was opened.

    Raises:
        NotFoundError: there is no such file, or no server answers.
        StorageError: the server refuses, or does not serve ranges.
    """

    def __init__(self, path: Url) -> None:
        self.path = path
        self._pinned: dict[str, str] = {}
        self.size = self._ask(self._open)

    def fetch(self, pieces: Iterable[Piece]) -> None:
        """Fills the pieces, some at the same time.

        Raises:
            CorruptError: the server gives other bytes than were asked for.
            StorageError: it fails, is silent for too long, or has another file there by now.
        """
        self._ask(self._all, iter(pieces))

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        loop = _client(os.getpid()).loop
        import aiohttp
        import fsspec.asyn  # type: ignore[import-untyped]

        try:
            return fsspec.asyn.sync(loop, question, *about)
        except TimeoutError as error:
            raise StorageError(
                errno.ETIMEDOUT,
                f"cannot read {self.path}: the server must go on sending; found {_SILENT_SECONDS} s of silence",
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise no_answer(self.path) from error
        except aiohttp.ClientError as error:
            raise self._refused(f"the server must answer in full; found {type(error).__name__}") from error

    async def _open(self) -> int:
        async with await self._request(0, _FIRST - 1) as answer:
            if answer.status in _NOT_FOUND:
                raise no_answer(self.path)
            first, last, size = self._range(answer)
            if first != 0:
                raise self._refused(f"the range must begin at 0; found {first}")
            # Read to its end, so that the connection is there for the next range.
            await self._fill(answer, 0, np.empty(min(last + 1, _FIRST), np.uint8))
            self._pinned = {name: answer.headers[name] for name in _VALIDATORS if name in answer.headers}
            return size

    async def _all(self, pieces: Iterator[Piece]) -> None:
        import asyncio

        async def some() -> None:
            for piece in pieces:
                await self._one(piece)

        try:
            async with asyncio.TaskGroup() as group:
                # Few at a time: a server that is asked for a thousand ranges at once makes most of them wait.
                for _ in range(_AT_ONCE):
                    group.create_task(some())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _one(self, piece: Piece) -> None:
        first, nbytes = piece.address, len(piece.place)
        async with await self._request(first, first + nbytes - 1) as answer:
            found = self._range(answer)
            self._check_same(answer, found[2])
            if found[:2] != (first, first + nbytes - 1):
                raise self._wrong(first, nbytes, f"bytes {found[0]} to {found[1]}")
            await self._fill(answer, first, piece.place)

    async def _fill(self, answer: Any, first: int, place: NDArray[np.uint8]) -> None:
        done, nbytes = 0, len(place)
        async for data in answer.content.iter_any():
            if done + len(data) > nbytes:
                raise self._wrong(first, nbytes, "more")
            place[done : done + len(data)] = np.frombuffer(data, np.uint8)
            done += len(data)
        if done < nbytes:
            raise self._wrong(first, nbytes, str(done))

    async def _request(self, first: int, last: int) -> Any:
        session = await _client(os.getpid()).set_session()
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        return session.get(self.path.url, headers=headers)

    def _range(self, answer: Any) -> tuple[int, int, int]:
        """First and last byte and the size of the file, of an answer whose body may be read."""
        if answer.status != _PARTIAL:
            raise self._refused(
                f"the server must serve ranges, with status 206; found {answer.status}"
                f"{'' if answer.status != 200 else ', the whole file'}"
            )
        if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
            raise self._refused(f"the server must serve the file as it is; found it encoded, {encoding!r:.40}")
        found = _RANGE.fullmatch(given := answer.headers.get("Content-Range", ""))
        if found is None:
            raise self._refused(f"the server must say which range it serves and of how much; found {given!r:.80}")
        first, last, size = map(int, found.groups())
        return first, last, size

    def _check_same(self, answer: Any, size: int) -> None:
        now = {"size": str(size), **{name: answer.headers.get(name, "") for name in self._pinned}}
        for name, was in {"size": str(self.size), **self._pinned}.items():
            if now[name] != was:
                raise StorageError(
                    errno.ESTALE,
                    f"{self.path} must be the file that was opened, of {name} {was}; found {name} {now[name]!r:.80}: "
                    f"it has changed on the server; open it again",
                )

    def _wrong(self, first: int, nbytes: int, found: str) -> CorruptError:
        return CorruptError(f"{self.path} must have {nbytes} bytes at {first}; found {found} in the answer; try again")

    def _refused(self, why: str) -> StorageError:
        return StorageError(errno.EIO, f"cannot read {self.path}: {why}; check the URL and server")


def no_answer(path: Url) -> NotFoundError:
    """The error for an address that has no file."""
    return NotFoundError(f"no feature set at {path}: the server has no such file, or does not answer; check the URL")


@functools.lru_cache(maxsize=1)
def _client(_process: int) -> Any:
    """The HTTP file system of fsspec, whose session and loop are used; a fork needs its own."""
    try:
        import aiohttp
        import fsspec
    except ImportError as error:
        raise InvalidInputError(f"reading from a server {advice(error.name or 'fsspec')}") from error
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
    settings = {"timeout": timeout, "auto_decompress": False}
    return fsspec.filesystem("http", client_kwargs=settings, skip_instance_cache=True)
