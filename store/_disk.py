"""Positional reads and writes of one file: the only place where the store touches a file after its layout.

Everything a writer does to a partial goes through `Disk.write` and `Disk.sync`; that is where the tests inject faults.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import shutil
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from featurebank.store.errors import (
    CorruptError,
    InvalidInputError,
    LockedError,
    NotAFeatureSetError,
    NotFoundError,
    StorageError,
    StoreError,
    TooLargeError,
    damaged,
)

_PIECE = 64 << 20
_SMALL_PIECE = 8 << 20
_SYNC_FILE_RANGE_WRITE = 2
_ADVICE = {
    errno.ENOSPC: "free some space, then resume: every committed chunk is kept",
    errno.EDQUOT: "the quota is used up; free some space, then resume: every committed chunk is kept",
    errno.EFBIG: "the file system or a limit of this process does not allow a file of this size",
    errno.EROFS: "the file system is mounted read-only; choose another place for the store",
    errno.EACCES: "check the permissions of the file and its folder",
    errno.EPERM: "check the permissions of the file and its folder",
    errno.EIO: "the disk failed; check it, then resume: every committed chunk is checked first",
}


class Readable(Protocol):
    """What reading a feature set needs of a file, wherever it lies."""

    path: Path

    @property
    def size(self) -> int:
        """The size of the file in bytes."""

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """``nbytes`` fresh bytes from ``address`` on."""

    def close(self) -> object:
        """Lets go of the file."""


def pieces(file: Readable, address: int, nbytes: int) -> Iterator[NDArray[np.uint8]]:
    """The bytes of a file from ``address`` on, a few megabytes at a time."""
    for start in range(0, nbytes, _SMALL_PIECE):
        yield file.read(address + start, min(_SMALL_PIECE, nbytes - start))


class _Descriptor:
    """A descriptor that is closed when nobody has this object any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        weakref.finalize(self, os.close, fd)


class Disk:
    """One open regular file, read and written at given addresses.

    Raises:
        NotFoundError: there is no such file.
        NotAFeatureSetError: it is no regular file.
        StorageError: the operating system refuses.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        try:
            # O_NONBLOCK: opening a FIFO by mistake must not hang.
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"no feature set at {path}: there is no such file; check the path") from error
        except IsADirectoryError as error:
            raise _not_regular(path, stat.S_IFDIR) from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _not_regular(path, stat.S_IFLNK) from error
            raise storage_error(error, path, "open") from error
        self._held: _Descriptor | None = _Descriptor(fd)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            self.close()
            raise _not_regular(path, mode)

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self._held is not None

    @property
    def size(self) -> int:
        """The size of the file in bytes, now."""
        with self.descriptor() as fd:
            return os.fstat(fd).st_size

    def close(self) -> None:
        """Lets go of the file, which is closed as soon as no other thread reads or writes it."""
        self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """The descriptor, of this file for as long as it is used, whoever calls `close` meanwhile.

        Raises:
            InvalidInputError: it is closed already.
        """
        # One look, which is atomic: a number looked up twice may be another file's the second time.
        held = self._held
        if held is None:
            raise InvalidInputError(f"{self.path} is closed; open it again")
        try:
            yield held.fd
        finally:
            # Or an error's traceback would keep the file open.
            del held

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """``nbytes`` fresh bytes from ``address`` on."""
        data = np.empty(nbytes, np.uint8)
        self.read_into(data, address)
        return data

    def read_into(self, data: NDArray[Any], address: int) -> None:
        """Fills a C-contiguous array from ``address`` on.

        Raises:
            CorruptError: the file ends before the array is full.
        """
        view = data.reshape(-1).view(np.uint8).data
        done = 0
        with self.descriptor() as fd:
            while done < len(view):
                try:
                    got = os.preadv(fd, [view[done : done + _PIECE]], address + done)
                except OSError as error:
                    raise storage_error(error, self.path, "read") from error
                if got == 0:
                    raise CorruptError(
                        f"{self.path} must have {len(view)} bytes at {address}; found {done}, where it ends; "
                        f"it was truncated: restore it from a copy or extract it again"
                    )
                done += got

    def write(self, address: int, data: bytes | NDArray[np.uint8]) -> None:
        """Writes all of ``data`` at ``address``."""
        view = memoryview(data) if isinstance(data, bytes) else data.data
        done = 0
        with self.descriptor() as fd:
            while done < len(view):
                try:
                    done += os.pwrite(fd, view[done:], address + done)
                except OSError as error:
                    raise storage_error(error, self.path, "write", len(view) - done) from error

    def truncate(self, size: int) -> None:
        """Makes the file as long as this."""
        with self.descriptor() as fd:
            try:
                os.ftruncate(fd, size)
            except OSError as error:
                raise storage_error(error, self.path, "cut") from error

    def begin_writeback(self) -> None:
        """Has the system begin to put what was written on the disk, so that `sync` waits for less; a hint only."""
        if (begin := _sync_file_range()) is not None:
            with self.descriptor() as fd:
                begin(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def sync(self) -> None:
        """Returns once everything written is on the disk."""
        with self.descriptor() as fd:
            try:
                os.fdatasync(fd)
            except OSError as error:
                raise storage_error(error, self.path, "sync") from error

    def allocate(self, address: int, nbytes: int) -> None:
        """Reserves the disk's blocks for an extent, so that a full disk shows now and not hours later."""
        with self.descriptor() as fd:
            try:
                os.posix_fallocate(fd, address, nbytes)
            except OSError as error:
                raise storage_error(error, self.path, "reserve", nbytes) from error


@contextlib.contextmanager
def reading(path: object) -> Iterator[None]:
    """Makes whatever reading one file raises one `StoreError` that names it, so that it is that file's fault alone.

    A file may hold anything: there is no list of what the code that meets it can raise.
    """
    try:
        with enough_memory(path):
            yield
    except StoreError:
        raise
    except OSError as error:
        raise storage_error(error, path, "read") from error
    except Exception as error:
        raise damaged(path, "it", "readable", f"{type(error).__name__}: {error!s:.400}") from error


@contextlib.contextmanager
def enough_memory(path: object) -> Iterator[None]:
    """Makes a MemoryError a `TooLargeError` that names the file."""
    try:
        yield
    except StoreError:
        raise
    except MemoryError as error:
        raise TooLargeError(
            f"{path} needs more memory to be read than there is ({error or 'none is left'}); free some, or read fewer "
            f"rows at a time"
        ) from error


def lock(disk: Disk) -> None:
    """Takes the advisory lock that a writer holds for as long as it has the partial open.

    Raises:
        LockedError: another writer holds it.
    """
    try:
        with disk.descriptor() as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LockedError(
            f"{disk.path} is being written by another writer, in this process or another one; "
            f"wait until it is done or end it, then resume"
        ) from error
    except OSError as error:
        raise storage_error(error, disk.path, "lock") from error


@functools.cache
def _sync_file_range() -> Any:
    """The system's function of that name, which Python has not; ``None`` where the system has none."""
    import ctypes

    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


def storage_error(error: OSError, path: object, action: str, nbytes: int | None = None) -> StorageError:
    """One clear error for what the operating system refused: path, needed, free, what to do."""
    needed = "" if nbytes is None else f" {nbytes} bytes"
    space = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and isinstance(path, Path):
        space = f" ({_free(path)} bytes are free)"
    advice = _ADVICE.get(error.errno or 0, "see the operating system's message")
    text = f"cannot {action}{needed} in {path}: {error.strerror or error}{space}; {advice}"
    return StorageError(error.errno or errno.EIO, text)


def _free(path: Path) -> int | str:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return "an unknown number of"


def _not_regular(path: Path, mode: int) -> NotAFeatureSetError:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link that leads to itself"}
    kind = kinds.get(stat.S_IFMT(mode), "no regular file")
    return NotAFeatureSetError(f"{path} must be a feature set's file; it is {kind}; check the path")
