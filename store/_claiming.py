"""How a new file or folder of a store gets its name: complete, once, and never instead of what has it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from featurebank.store._disk import Disk, lock, storage_error
from featurebank.store.errors import ExistsError, LockedError, NotFoundError


@contextlib.contextmanager
def named_when_complete(target: Path, *, locked: bool = False) -> Iterator[Path]:
    """A hidden path beside ``target`` to write a file or a folder to, which gets the name of ``target`` at the end.

    Args:
        target: Where it shall lie.
        locked: Whether it is a file that is there from the beginning, empty, and locked against `FeatureStore.gc`.

    Raises:
        ExistsError: there is something at ``target``, or has come there meanwhile; it is kept.
    """
    if os.path.lexists(target):
        raise _exists(target)
    make_folder(target.parent)
    disk = hidden_file(target.parent) if locked else None
    hidden = _hidden_path(target.parent) if disk is None else disk.path
    try:
        yield hidden
        claim(hidden, target)
    finally:
        if hidden.is_dir():
            shutil.rmtree(hidden)
        else:
            hidden.unlink(missing_ok=True)
        if disk is not None:
            disk.close()


def claim(complete: Path, target: Path) -> None:
    """Gives a complete file or folder a name, durably, and never replaces what has it; a file keeps its old name too.

    Raises:
        ExistsError: there is something at ``target``.
        StorageError: the operating system refuses.
    """
    try:
        if complete.is_dir():
            # A rename would replace an empty folder: it shall be our own. One that fills meanwhile is not replaced.
            target.mkdir()
            try:
                complete.rename(target)
            except OSError:
                with contextlib.suppress(OSError):
                    target.rmdir()
                raise
        else:
            # A hard link, unlike a rename, never replaces what is there.
            os.link(complete, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise _exists(target) from error
        raise storage_error(error, target, "create") from error
    sync_directory(target.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder, where there is none, and those above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder, "create") from error


def hidden_file(folder: Path) -> Disk:
    """A new empty file with a hidden name in a folder, locked from its beginning, so that `gc` leaves it alone.

    Raises:
        StorageError: it cannot be made.
    """
    while True:
        path = _hidden_path(folder)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except OSError as error:
            raise storage_error(error, path, "create") from error
        try:
            disk = Disk(path, writable=True)
        except NotFoundError:
            # Collected before it could be locked.
            continue
        try:
            lock(disk)
            if is_there(disk):
                return disk
        except LockedError:
            pass
        except BaseException:
            disk.close()
            path.unlink(missing_ok=True)
            raise
        disk.close()


def is_there(disk: Disk) -> bool:
    """Whether the path still leads to the file that was opened."""
    try:
        with disk.descriptor() as fd:
            return os.path.samestat(os.fstat(fd), disk.path.stat())
    except OSError:
        return False


def sync_directory(folder: Path) -> None:
    """Makes what has been named in ``folder`` durable."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, folder, "sync") from error


def _hidden_path(folder: Path) -> Path:
    return folder / f".{secrets.token_hex(8)}.layout"


def _exists(target: Path) -> ExistsError:
    return ExistsError(f"{target} already exists; choose another place, or delete it first")
