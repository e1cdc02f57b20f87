"""Files that replace nothing and leave nothing half-written, and small files in folders of a store.

The latter are read and written without ever following a link out of it. A store may come from a stranger: what lies
where a folder or a file is expected may be a link, a pipe, a device, or larger than memory.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from featurebank.store._claiming import named_when_complete
from featurebank.store.errors import CorruptError

__all__ = ["Filing", "named_when_complete"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Filing:
    """A folder of a store and the folders in it.

    Args:
        root: the store's folder, which may be a link itself.
        name: of the folder in it, which need not exist yet.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self._root / self._name

    def read(self, *place: str, limit: int) -> bytes:
        """The bytes of a file.

        Args:
            place: names of folders in this one, and of the file.
            limit: of its size, in bytes.

        Raises:
            FileNotFoundError: there is none.
            CorruptError: it is a link, no regular file, or larger than that.
            OSError: it cannot be read.
        """
        path = self.path.joinpath(*place)
        with self._folder(place[:-1]) as folder:
            self._refuse_link(folder, place[-1], path)
            with os.fdopen(os.open(place[-1], _READ, dir_fd=folder), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise CorruptError(
                        f"{path} must be a regular file; found {stat.filemode(found.st_mode)}; remove it"
                    )
                if found.st_size > limit:
                    raise CorruptError(f"{path} must have at most {limit:,} bytes; found {found.st_size:,}; remove it")
                return file.read(found.st_size)  # a larger number would be allocated first

    def write(self, *place: str, data: bytes) -> None:
        """Writes a file whole: a reader sees the old one or the new one. Its mode is what the umask leaves.

        Raises:
            CorruptError: a folder on the way, or the file, is a link.
            OSError: the disk is full, read-only, failing.
        """
        path, temporary = self.path.joinpath(*place), f".{place[-1]}.{secrets.token_hex(4)}.tmp"
        self._root.mkdir(parents=True, exist_ok=True)
        with self._folder(place[:-1], make=True) as folder:
            self._refuse_link(folder, place[-1], path)
            try:
                with os.fdopen(os.open(temporary, _WRITE, 0o666, dir_fd=folder), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, place[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def has(self, *place: str) -> bool:
        """Whether a regular file lies there."""
        try:
            with self._folder(place[:-1]) as folder:
                return stat.S_ISREG(os.stat(place[-1], dir_fd=folder, follow_symlinks=False).st_mode)
        except (OSError, CorruptError):
            return False

    def names(self, *place: str) -> list[str]:
        """What lies in a folder, sorted; nothing where there is no such folder or it is a link."""
        try:
            with self._folder(place) as folder:
                return sorted(os.listdir(folder))  # noqa: PTH208 (of a descriptor)
        except (OSError, CorruptError):
            return []

    @contextmanager
    def _folder(self, place: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder, each step of the way opened in the one before."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        path = self._root
        try:
            for part in (self._name, *place):
                path /= part
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=descriptor)
                self._refuse_link(descriptor, part, path)
                below = os.open(part, _FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _refuse_link(folder: int, name: str, path: Path) -> None:
        """For the message alone: opening refuses links itself."""
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise CorruptError(f"{path} must lie within the store; found a link; remove it")
